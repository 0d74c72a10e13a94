"""
One run on several GPUs or machines: what a process needs to know of the others.

    torchrun --nproc_per_node=4 train.py --task prosqa

starts four processes, or ranks. Each holds the whole model and takes every fourth problem of a
batch; before a step the gradients are summed over the ranks, so that four train as one does, but
for dropout, whose draws differ in each. On several machines the run's folder must be one that all
of them see: every rank reads the checkpoint when the run is resumed.
"""
import os

import torch
import torch.distributed as dist

RANK, RANKS = 0, 1
if {"RANK", "WORLD_SIZE"} <= os.environ.keys():  # one alone is what a cluster left behind
    RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


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
        dist.destroy_process_group()


def share(items):
    """Every RANKS-th of a list, beginning at this rank's."""
    return items[RANK::RANKS]


def micro_batches(batch, size):
    """This rank's share of a batch, cut into lists of `size`; none if it has no share."""
    mine = share(batch)
    return [mine[i:i + size] for i in range(0, len(mine), size)]


def sum_gradients(model):
    """Give every parameter the sum of the gradients that the ranks have for it; where none has one,
    as of a part of the model that this batch does not use, it stays without."""
    if RANKS == 1:
        return
    parameters = list(model.parameters())
    used = total([p.grad is not None for p in parameters], parameters[0].device)
    for p in [p for p, by_some in zip(parameters, used) if by_some]:
        if p.grad is None:  # this rank had no share of the batch
            p.grad = torch.zeros_like(p)
        dist.all_reduce(p.grad)


def total(numbers, device):
    """A list of numbers, each summed over the ranks."""
    if RANKS == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def of_rank_0(value):
    """The value that rank 0 has."""
    values = [value]
    if RANKS > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]
