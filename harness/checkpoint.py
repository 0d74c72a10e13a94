"""
What outlives a process: a run's checkpoint and its log.

Everything that a run knows is in out_dir/ckpt.pt. train.py writes it before the first step, every
save_every seconds, before an evaluation, and after that of an epoch. So whatever ends a run,
Ctrl-C, a crash or a cluster, costs at most save_every seconds and one write, or an evaluation. A
resumed run ends as if nothing had happened: on a CPU bit by bit (with no dropout on several ranks).
"""
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field

import torch

from data import encoding_state
from harness.ranks import RANK, RANKS
from tasks.record import write_whole


@dataclass
class Run:
    """Where a run stands."""
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    stage: int = -1
    stage_step: int = 0  # optimizer steps done since the optimizer was reset
    loss_sum: float = 0.0  # training loss of this epoch in nats, summed ..
    n_targets: int = 0  # .. over so many tokens
    seconds: float = 0.0
    threads: int = 0  # of torch on a CPU, see fastest_threads; 0: not chosen yet
    problems: str = ""  # a checksum of the questions: a run is not resumed on others
    history: list = field(default_factory=list)  # a line of metrics.jsonl for each epoch


def checkpoint_of(s):
    return os.path.join(s.out_dir, "ckpt.pt")


def log_of(s):
    return os.path.join(s.out_dir, "metrics.jsonl")


def save_checkpoint(s, run, model, optimizer, enc):
    """Write out_dir/ckpt.pt: all it takes to evaluate, sample, analyze and resume. One rank writes
    for all. Raises UserError, and then leaves the file as it was."""
    if RANK > 0:
        return
    ckpt = {"settings": asdict(s), "run": asdict(run), "encoding": encoding_state(enc),
            "config": asdict(model.config), "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        ckpt["cuda_rng"] = torch.cuda.get_rng_state(device)
    write_whole(checkpoint_of(s), "wb", lambda file: torch.save(ckpt, file))
    s.saved = True
    if run.step == 0 and os.path.exists(log_of(s)):  # of the run that was there before
        os.remove(log_of(s))


def save_log(s, run, device, *results):
    """Write out_dir/metrics.jsonl: a line on the run, one for each epoch, the results."""
    if RANK > 0:
        return
    header = {"settings": asdict(s), "device": str(device), "machine": machine_of(device),
              "ranks": RANKS, "threads": torch.get_num_threads(), "torch": torch.__version__,
              "python": platform.python_version()}
    lines = [json.dumps(line) + "\n" for line in [header, *run.history, *results]]
    write_whole(log_of(s), "w", lambda file: file.writelines(lines))


def machine_of(device):
    """The name of a device's GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:  # on Linux; platform does not know it there
            return re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()
