"""
What keeps a run alive, around the loop of train.py: checkpoints, history, signals, printing.

Everything that a run knows is in out_dir/ckpt.pt, written before the first step, every save_every
seconds, before and after an evaluation. So whatever ends a run costs at most save_every seconds of
it, and a resumed one ends as if nothing had happened: on a CPU bit by bit.
"""
import json
import math
import os
import platform
import re
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from shlex import quote

import torch

from curriculum import NO_LOSS, build, last_stage, n_thoughts, parts_of_epoch, stage_at
from data import encode, encoding_state, markers_of
from harness.files import write_whole
from harness.ranks import RANK, RANKS, total

ON_TERMINAL = sys.stdout.isatty()
LINE_START = "\r\033[K" if ON_TERMINAL else ""  # erases the progress line


@dataclass
class Run:
    """Where a run stands."""
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    stage: int = -1
    stage_step: int = 0  # optimizer steps done since the optimizer was reset
    nats: float = 0.0  # training loss of this epoch, summed ..
    learned: int = 0  # .. over so many tokens
    seconds: float = 0.0
    history: list = field(default_factory=list)  # a line of metrics.jsonl for each epoch


class Keeper:
    """Keeps a run. Its methods are named for when train.py's loop calls them."""

    def __init__(self, s, run, model, optimizer, enc):
        self.s, self.run, self.model, self.optimizer, self.enc = s, run, model, optimizer, enc
        self.device = model.wte.weight.device
        self.began = time.perf_counter() - run.seconds
        self.saved = time.perf_counter()
        self.stop, self.ckpt = Stop(s.out_dir), os.path.join(s.out_dir, "ckpt.pt")

    def epochs(self):
        """The epochs that are left, each as its number."""
        s, c = self.s, self.s.curriculum()
        final = stage_at(s.epochs - 1, c, parts_of_epoch(c) - 1)
        if final < last_stage(c):
            print(f"note: {s.epochs} epochs end at stage {final} of {last_stage(c)}")
        while self.run.epoch < s.epochs and not (self.cut and self.run.batch == 0):
            yield self.run.epoch
            if self.cut:
                break

    @property
    def cut(self):
        """Whether the run has reached --max_steps."""
        return self.run.step == self.s.max_steps

    def at_new_stage(self, examples):
        """Say what it trains, on one of the longer examples, split where the loss begins. Before
        the first step of all, save the run."""
        stage = self.run.stage
        if self.run.step == 0:
            self.save()  # a full disk shows now, not after an hour
        example = max(examples[:50], key=lambda example: len(example.steps))
        c, enc = self.s.curriculum(), self.enc
        k, fill = n_thoughts(stage, c), c.fill or "thought"
        ids, targets = build(encode(example, enc), stage, c, markers_of(enc))
        start = targets.count(NO_LOSS)
        print(f"\nstage {stage} of {c.method}: {k} {fill}{'' if k == 1 else 's'}\n  given    "
              f"{enc.decode(ids[:start])!r}\n  learned  {enc.decode(ids[start:])!r}\n")

    def batches(self, epoch_batches):
        """Those of this epoch's batches that are left."""
        run = self.run
        if run.batch > len(epoch_batches):
            raise SystemExit(f"train.py: {self.s.data} has fewer problems than when the run began")
        self.steps_in_epoch = len(epoch_batches)
        for batch in epoch_batches[run.batch:]:
            if self.cut:  # a resumed run may have only its evaluation left
                break
            yield batch

    def before_step(self, nats, learned, norm):
        """Add up the loss in nats, and learn from all ranks whether to stop after this step.
        FloatingPointError if the loss or the norm is not finite."""
        nats, self.stopping = total([nats, self.stop.asked], self.device)
        if not math.isfinite(nats + norm):
            raise FloatingPointError(
                f"at step {self.run.step + 1} the loss is {nats / learned:.3g}, the gradient's "
                f"norm {norm:.3g}: start anew, or from a little earlier by --init "
                f"{quote(self.ckpt)}, with a smaller --learning_rate, --grad_clip 1, or --dtype "
                "float32")
        self.run.nats += nats
        self.run.learned += learned

    def after_step(self):
        """Count it, print, and save the run now and then, or if it has to stop."""
        s, run = self.s, self.run
        run.batch, run.step, run.stage_step = run.batch + 1, run.step + 1, run.stage_step + 1
        run.seconds = time.perf_counter() - self.began
        self.print_progress()
        whole = run.batch == self.steps_in_epoch
        if self.cut or whole or self.stopping or time.perf_counter() > self.saved + s.save_every:
            self.save()
        if self.stopping:
            self.stop.now()

    @contextmanager
    def evaluation(self):
        """Within it a signal stops the run at once: it has been saved."""
        with self.stop.at_once():
            yield
        self.run.seconds = time.perf_counter() - self.began

    def after_epoch(self, result):
        """Print what an evaluation gave, keep it if the epoch is whole, and save."""
        run, train_loss = self.run, self.run.nats / self.run.learned
        print(f"{LINE_START}epoch {run.epoch + 1}/{self.s.epochs}  stage {run.stage}  "
              f"train loss {train_loss:.4f}  valid loss {result['loss']:.4f}  "
              f"accuracy {result['accuracy']:.1%}  tokens {result['tokens']:.1f}  "
              f"{run.seconds / 60:.1f} min", flush=True)
        if run.batch == self.steps_in_epoch:
            run.history.append({"epoch": run.epoch + 1, "stage": run.stage, "step": run.step,
                                "train_loss": train_loss,
                                **{f"val_{name}": value for name, value in result.items()
                                   if name not in ("right", "problems")},
                                "seconds": round(run.seconds, 1)})
            run.epoch, run.batch, run.nats, run.learned = run.epoch + 1, 0, 0.0, 0
        self.save()
        self.save_metrics()

    def finish(self, result):
        """Keep and print the result on the test split; returns its line of metrics.jsonl."""
        s, run = self.s, self.run
        line = {"stage": run.stage, "step": run.step, "seconds": round(run.seconds, 1),
                **{f"test_{name}": value for name, value in result.items()}}
        self.save_metrics(line)
        print(f"\ntest accuracy {result['accuracy']:.1%} on {result['n']} problems never trained "
              f"on, at stage {run.stage}, with {result['tokens']:.1f} tokens a problem")
        if run.epoch < s.epochs:
            print(f"go on:  python train.py --out_dir {quote(s.out_dir)} --resume")
        print(f"look:   python sample.py --ckpt {quote(self.ckpt)} --index 0")
        return line

    def print_progress(self):
        """On a terminal one line, rewritten at every step; in a pipe a plain line now and then."""
        s, run = self.s, self.run
        last = min(s.epochs * self.steps_in_epoch, s.max_steps or sys.maxsize)
        left = round((last - run.step) * run.seconds / run.step)
        line = (f"epoch {run.epoch + 1}/{s.epochs}  stage {run.stage}  step {run.step}/{last}  "
                f"loss {run.nats / run.learned:.4f}  {run.step / run.seconds:.2f} steps/s  "
                f"{left // 60}:{left % 60:02} left")
        if ON_TERMINAL:
            print(LINE_START + line, end="", flush=True)
        elif run.step % 50 == 0:
            print(line, flush=True)

    def save(self):
        """Write out_dir/ckpt.pt: all it takes to evaluate, sample, analyze and resume."""
        self.saved = time.perf_counter()
        if RANK > 0:  # one rank writes for all
            return
        ckpt = {"settings": asdict(self.s), "run": asdict(self.run),
                "encoding": encoding_state(self.enc), "config": asdict(self.model.config),
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            ckpt["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        write_whole(self.ckpt, "wb", lambda file: torch.save(ckpt, file))

    def save_metrics(self, *results):
        """Write out_dir/metrics.jsonl: a line on the run, one for each epoch, the results."""
        if RANK > 0:
            return
        header = {"settings": asdict(self.s), "device": str(self.device),
                  "machine": machine_of(self.device), "ranks": RANKS,
                  "threads": torch.get_num_threads(), "torch": torch.__version__,
                  "python": platform.python_version()}
        lines = [json.dumps(line) + "\n" for line in [header, *self.run.history, *results]]
        path = os.path.join(self.s.out_dir, "metrics.jsonl")
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
    """Within `with stop:` Ctrl-C, SIGTERM and a closed terminal ask a run to stop, which it does
    once it is saved. A second one ends it at once."""

    def __init__(self, out_dir):
        self.out_dir, self.asked, self.saved = out_dir, 0, False
        numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
        self.before = {number: signal.getsignal(number) for number in numbers
                       if number and signal.getsignal(number) != signal.SIG_IGN}  # as by nohup

    def __enter__(self):
        for number in self.before:
            signal.signal(number, self.ask)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number, frame):
        # torchrun passes on what the terminal has told every process already
        signal.signal(number, signal.SIG_DFL if RANKS == 1 else signal.SIG_IGN)
        if number == getattr(signal, "SIGHUP", None):
            sys.stdout = open(os.devnull, "w")  # there is no terminal to print to
        self.asked = number
        if self.saved:
            self.now()

    @contextmanager
    def at_once(self):
        """What is done within needs no saving."""
        self.saved = True
        if self.asked:
            self.now()
        yield
        self.saved = False

    def now(self):
        print("\nstopped and saved; go on:  python train.py --out_dir "
              f"{quote(self.out_dir)} --resume", flush=True)
        raise SystemExit(128 + self.asked)
