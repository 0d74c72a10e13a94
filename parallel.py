"""
One run on several GPUs or machines: what a process needs to know of the others.

    torchrun --nproc_per_node=4 train.py --task prosqa

starts train.py four times. Every process (a rank) holds the whole model and takes each fourth
problem of a batch; torch's DistributedDataParallel adds up the gradients, so that four processes
train as one does. Without torchrun there is one rank, and nothing here does anything.
"""
import gc
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join(device):
    """Meet the other ranks, if there are any, to talk with them from this device."""
    if RANKS == 1:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave():
    if dist.is_initialized():
        dist.barrier()  # nobody hangs up while another still talks
        gc.collect()  # DistributedDataParallel holds on to the group, in a cycle
        dist.destroy_process_group()


class SharedLoss(torch.nn.Module):
    """loss(model, sequences) of this rank's share of a batch; its backward pass sums the gradients
    of all ranks. Every rank has to call it as often, if need be with an empty share."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, sequences):
        if sequences:
            return self.loss(self.model, sequences)
        return 0 * sum(p.sum() for p in self.model.parameters())


def shared_loss(model, loss):
    """loss(model, sequences) as a function of the sequences, for all ranks together."""
    module = SharedLoss(model, loss)
    if RANKS == 1:
        return module
    module = DistributedDataParallel(module)
    return lambda sequences: RANKS * module(sequences)  # as it takes the mean over the ranks


def micro_batches(batch, size):
    """This rank's share of a batch, cut into lists of `size`; as many of them in every rank."""
    mine, most = share(batch), -(-len(batch) // RANKS)
    return [mine[i:i + size] for i in range(0, most, size)]


def share(items):
    """Every RANKS-th of a list, beginning at this rank's."""
    return items[RANK::RANKS]


def total(numbers, device):
    """A list of numbers, each summed over the ranks."""
    if RANKS == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()
