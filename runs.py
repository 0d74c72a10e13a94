"""
A run from outside its loop: how it starts, is saved, stopped and resumed.

Everything that a run knows is in out_dir/ckpt.pt, written before the first step, every save_every
seconds, before and after an evaluation. So whatever ends a run costs at most save_every seconds of
it, and a resumed one ends as if nothing had happened: on a CPU bit by bit.
"""
import json
import os
import platform
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import tiktoken
import torch

from curriculum import METHODS
from data import encoding_state, gpt2_encoding, load_splits, markers_of, text_of, word_encoding
from files import read_torch, write_whole
from model import GPT, GPTConfig
from parallel import RANK, RANKS, join
from settings import Settings, check, complete
from tasks import GENERATED


@dataclass
class Run:
    """Where a run stands."""
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps done
    stage: int = -1
    stage_step: int = 0  # optimizer steps since the optimizer was started
    nats: float = 0.0  # training loss of this epoch, summed ..
    learned: int = 0  # .. over so many tokens
    seconds: float = 0.0
    history: list = field(default_factory=list)  # a line of metrics.jsonl for each epoch


# --------------------------------------------------------------------------------------------------
# Start

def settings_of_new_run(given):
    """Settings of the options given. ValueError if the run's folder cannot be had."""
    s = complete(given, saved_settings(given.get("init", "scratch")))
    try:
        os.makedirs(s.out_dir, exist_ok=True)
        held = [name for name in os.listdir(s.out_dir) if not name.endswith(".tmp")]
    except OSError as error:
        raise ValueError(f"cannot make the folder {s.out_dir} ({error.strerror}): name another one "
                         "by --out_dir") from None
    if "ckpt.pt" in held:
        raise ValueError(f"{s.out_dir} holds a run: go on with it by --resume, or name another "
                         "folder by --out_dir")
    if held and RANK == 0:  # the other ranks may find what this one has begun to write
        raise ValueError(f"{s.out_dir} is not empty: name another folder by --out_dir")
    return s


def saved_settings(path):
    """The settings in a checkpoint of train.py; None if the path is anything else."""
    saved = read_torch(path) if os.path.isfile(path) else None
    ours = isinstance(saved, dict) and "settings" in saved
    return load_run(path)[0]["settings"] if ours else None


def start_model(s, texts):
    """A model and its Encoding, as --init and --tokenizer say; texts give a new one its words."""
    if s.init == "scratch":
        enc = gpt2_encoding() if s.tokenizer == "gpt2" else word_encoding(texts)
        sizes = (s.block_size, enc.n_vocab, s.n_layer, s.n_head, s.n_embd, s.dropout)
        return GPT(GPTConfig(*sizes)), enc
    if saved_settings(s.init):
        ckpt, model, enc = load_run(s.init, dropout=s.dropout)
        if not METHODS[ckpt["settings"]["method"]].fill:  # then its markers start now
            rows = model.wte.weight.data
            rows[list(markers_of(enc))] = rows[enc.encode_ordinary("<<")[0]].clone()
        return model, enc
    model = GPT.from_pretrained(s.init, dropout=s.dropout)
    enc = gpt2_encoding()
    if not 50257 <= model.config.vocab_size <= enc.n_vocab:
        raise ValueError(f"{s.init} has {model.config.vocab_size} tokens, which are not GPT-2's")
    model.grow_vocab(enc.n_vocab, like=enc.encode_single_token("<<"))  # as official run.py:145-157
    return model, enc


def new_optimizer(s, model):
    return torch.optim.AdamW(model.parameters(), s.learning_rate, betas=(0.9, s.beta2),
                             weight_decay=s.weight_decay, fused=True)


def start(s):
    """All that `train` needs besides Settings, for a new run or a resumed one."""
    torch.manual_seed(s.seed)
    device = pick_device(s.device)
    join(device)
    splits = load_splits(s.data, s.task, s.size(), s.mixed_size, s.seed,
                         s.n_train, s.n_valid, s.n_test)
    if not s.resume:
        model, enc = start_model(s, [text_of(example) for example in splits[0](0)])
        model.to(device)
        optimizer, run = new_optimizer(s, model), Run()
    else:
        ckpt, model, enc = load_run(os.path.join(s.out_dir, "ckpt.pt"), device, s.dropout)
        optimizer, run = new_optimizer(s, model), Run(**ckpt["run"])
        optimizer.load_state_dict(ckpt["optimizer"])
        torch.set_rng_state(ckpt["rng"])
        if device.type == "cuda" and "cuda_rng" in ckpt:  # a run may have moved from a CPU
            torch.cuda.set_rng_state(ckpt["cuda_rng"], device)
    if RANK > 0:  # dropout differs in every rank
        torch.manual_seed(s.seed + 1_000_003 * RANK + run.step)
    return splits, model, enc, optimizer, run


def tested_problems(s, source=None):
    """The Examples that a run of these Settings is tested on, or those of another source: 500 if
    they are generated, all if they come from files."""
    source = source or s.data
    new = source in GENERATED
    n_test = s.n_test if new == s.generated else 500 if new else 0
    return load_splits(source, s.task, s.size(), False, s.seed, 1, 1, n_test)[2]


def pick_device(name):
    """The torch.device of a name; auto is the fastest there is. ValueError if it cannot be used."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if RANKS > 1 and name.startswith("cuda"):  # a GPU each
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"no device {name} here ({reason}): try --device cpu") from None
    return torch.device(name)


# --------------------------------------------------------------------------------------------------
# Save and resume

def save(s, run, model, optimizer, enc):
    """Write out_dir/ckpt.pt: all it takes to evaluate, sample, analyze and resume."""
    if RANK > 0:  # one rank writes for all
        return
    ckpt = {"settings": asdict(s), "run": asdict(run), "encoding": encoding_state(enc),
            "config": asdict(model.config), "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    if model.wte.weight.is_cuda:
        ckpt["cuda_rng"] = torch.cuda.get_rng_state(model.wte.weight.device)
    write_whole(os.path.join(s.out_dir, "ckpt.pt"), "wb", lambda file: torch.save(ckpt, file))


def save_metrics(s, run, *results):
    """Write out_dir/metrics.jsonl: a line on the run itself, one for each epoch, the results."""
    if RANK > 0:
        return
    header = {"settings": asdict(s), "machine": machine_of(s), "ranks": RANKS,
              "threads": torch.get_num_threads(), "torch": torch.__version__,
              "python": platform.python_version()}
    text = "".join(json.dumps(line) + "\n" for line in [header, *run.history, *results])
    write_whole(os.path.join(s.out_dir, "metrics.jsonl"), "w", lambda file: file.write(text))


def machine_of(s):
    """The name of the GPU or CPU that a run is on."""
    if torch.cuda.is_available() and s.device not in ("cpu", "mps"):
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as file:  # on Linux; platform does not know it there
            return re.search(r"model name\s*: (.*)", file.read())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def load_run(path, device="cpu", dropout=0.0):
    """(checkpoint dict, model, Encoding) as train.py saved them; ValueError for any other file."""
    ckpt = read_torch(path)
    if not (isinstance(ckpt, dict) and "settings" in ckpt):
        raise ValueError(f"{path} is no checkpoint of train.py")
    try:
        Settings(**ckpt["settings"]), Run(**ckpt["run"])
        enc = tiktoken.Encoding(**ckpt["encoding"])
        model = GPT(GPTConfig(**ckpt["config"] | {"dropout": dropout}))
        model.load_state_dict(ckpt["model"])
    except Exception as error:  # whatever a stranger's file provokes
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no checkpoint of this version of train.py: {reason}") from None
    return ckpt, model.to(device), enc


def settings_of_resumed_run(given):
    """Those of the checkpoint. ValueError if an option contradicts them; a few are free."""
    free = {"resume", "out_dir", "device", "epochs", "micro_batch", "max_steps", "save_every"}
    task, method = given.get("task", Settings.task), given.get("method", Settings.method)
    out_dir = given.get("out_dir") or f"out/{task}-{method}"
    path = os.path.join(out_dir, "ckpt.pt")
    if not os.path.exists(path):
        raise ValueError(f"nothing to resume: there is no {path}")
    ckpt = load_run(path)[0]
    if "optimizer" not in ckpt:
        raise ValueError(f"{path} has weights to ask, but no optimizer to go on with: start a new "
                         f"run from it by --init {path}")
    saved, steps = ckpt["settings"], ckpt["run"]["step"]
    for name, value in given.items():
        if name not in free and value != saved[name]:
            raise ValueError(f"--{name} is {value}, but {saved[name]} in the run of {path}")
    if given.get("max_steps", steps + 1) <= steps:
        raise ValueError(f"--max_steps must be more than the {steps} steps that {path} has done")
    s = Settings(**saved | {"max_steps": None} | given | {"out_dir": out_dir})
    check(s, {})
    return s


# --------------------------------------------------------------------------------------------------
# Stop

class Stop:
    """Ctrl-C, SIGTERM and a closed terminal ask a run to stop, which it does once it is saved. A
    second one ends it at once."""

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
        print(f"\nstopped and saved; go on:  python train.py --out_dir {self.out_dir} --resume",
              flush=True)
        raise SystemExit(128 + self.asked)
