"""
What outlives a process: a run's checkpoint, its log, and the signals that ask it to stop.

Everything that a run knows is in out_dir/ckpt.pt. train.py writes it before the first step, every
save_every seconds, and before and after an evaluation. So whatever ends a run costs at most
save_every seconds and one write, or an evaluation. A resumed run ends as if nothing had happened:
on a CPU bit by bit, with as many threads as before (and no dropout on several ranks).
"""
import json
import os
import platform
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from shlex import quote

import torch

from data import encoding_state
from harness.files import write_whole
from harness.ranks import RANK, RANKS


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
    history: list = field(default_factory=list)  # a line of metrics.jsonl for each epoch


def checkpoint_of(s):
    return os.path.join(s.out_dir, "ckpt.pt")


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


def save_log(s, run, device, *results):
    """Write out_dir/metrics.jsonl: a line on the run, one for each epoch, the results."""
    if RANK > 0:
        return
    header = {"settings": asdict(s), "device": str(device), "machine": machine_of(device),
              "ranks": RANKS, "threads": torch.get_num_threads(), "torch": torch.__version__,
              "python": platform.python_version()}
    lines = [json.dumps(line) + "\n" for line in [header, *run.history, *results]]
    path = os.path.join(s.out_dir, "metrics.jsonl")
    write_whole(path, "w", lambda file: file.writelines(lines))


def machine_of(device):
    """The name of a device's GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:  # on Linux; platform does not know it there
            return re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


class Stop:
    """Within `with stop:` Ctrl-C, SIGTERM and a closed terminal set stop.asked, for the loop to
    save the run and stop. The same again ends a single process at once."""

    def __init__(self, out_dir):
        self.out_dir, self.asked, self.saved = out_dir, 0, False
        numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
        self.before = {number: signal.getsignal(number) for number in numbers
                       if number and signal.getsignal(number) != signal.SIG_IGN}  # as by nohup

    def __enter__(self):
        for number in self.before:
            signal.signal(number, self.ask)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number, frame):
        # torchrun sends again what the terminal has sent to every rank already
        signal.signal(number, signal.SIG_DFL if RANKS == 1 else signal.SIG_IGN)
        if number == getattr(signal, "SIGHUP", None):
            sys.stdout = open(os.devnull, "w")  # there is no terminal to print to
        self.asked = number
        if self.saved:
            self.now()

    @contextmanager
    def at_once(self):
        """What is done within needs no saving, so a signal ends it at once."""
        self.saved = True
        if self.asked:
            self.now()
        yield
        self.saved = False

    def now(self):
        print("\nstopped and saved; go on:  python train.py --out_dir "
              f"{quote(self.out_dir)} --resume", flush=True)
        raise SystemExit(128 + self.asked)
