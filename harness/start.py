"""How a run starts, anew or from its checkpoint, and how a finished one's model is loaded."""
import math
import os
import time
from dataclasses import asdict
from functools import lru_cache
from shlex import quote

import tiktoken
import torch

from curriculum import METHODS, build, last_stage, n_thoughts, stage_at
from data import (collate, encode, fitting, gpt2_encoding, lines_of, markers_of, text_of,
                  word_encoding)
from harness.checkpoint import Run, checkpoint_of, machine_of
from harness.files import is_checkpoint, read_torch
from harness.folder import claim_folder, newest_run
from harness.gpt2 import adapter, is_other_model, load_gpt2
from harness.muon import Muon
from harness.ranks import RANK, RANKS, join, of_rank_0, total
from harness.settings import Settings, check, complete, read_settings
from model import GPT, GPTConfig, supervised_loss, think
from tasks.common import GENERATED, checksum, load_splits, read_examples, unrepeated
from tasks.record import UserError


def settings_of_run(given):
    """Settings of a new run, or of one that is resumed. given: what parse returns. UserError if its
    options contradict each other or the checkpoint."""
    if given.get("resume"):
        return settings_of_resumed_run(given)
    return complete(given, saved_settings(given.get("init", "scratch")))


def settings_of_resumed_run(given):
    free = {"resume", "out_dir", "device", "epochs", "micro_batch", "max_steps", "save_every"}
    task, method = given.get("task", "prontoqa"), given.get("method", "coconut")
    folder = given.get("out_dir") or newest_run(f"out/{task}-{method}")
    path = os.path.join(folder, "ckpt.pt")
    if not os.path.exists(path):
        raise UserError(f"nothing to resume: there is no {path}")
    ckpt, *_ = load_run(path)
    if ckpt["unknown"]:
        raise UserError(f"{path} was made with settings that this version does not have: "
                        f"{', '.join(ckpt['unknown'])}; resume it with the code that made it")
    if not {"optimizer", "rng"} <= ckpt.keys():
        raise UserError(f"{path} has no optimizer to go on with: start anew by --init "
                        f"{quote(path)}")
    saved, step = ckpt["settings"], ckpt["run"]["step"]
    epochs = ckpt["run"]["epoch"] + (ckpt["run"]["batch"] > 0)
    for name, value in given.items():
        if name not in free and value != saved[name]:
            raise UserError(f"--{name} is {value}, but {saved[name]} in the run of {path}")
    if given.get("max_steps", step) < step or given.get("epochs", epochs) < epochs:
        raise UserError(f"{path} is at step {step} of epoch {epochs}: --max_steps and --epochs "
                        "must not be less")
    s = Settings(**saved | {"max_steps": None, "out_dir": folder} | given)
    check(s, {})
    return s


def saved_settings(path):
    """The Settings in a checkpoint of train.py; None if the path is anything else."""
    ours = os.path.isfile(path) and not path.endswith((".safetensors", ".json"))
    saved = read_torch(path) if ours else None
    return Settings(**load_run(path)[0]["settings"]) if is_checkpoint(saved) else None


def start_run(s, saved=True):
    """(splits, model, Encoding, optimizer, Run): all that train.py's loop needs besides Settings,
    for a new run or a resumed one. splits as load_splits has them, of problems that fit. Sets
    s.out_dir, unless nothing is to be saved; and s.steps by the problems, if they come from files.
    """
    torch.manual_seed(s.seed)
    device = pick_device(s.device)
    join(device)
    if s.resume:
        claim_folder(s)
    print(f"on {device}: {machine_of(device)}, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}", flush=True)
    drawn, valid, test = load_splits(s.data, s.task, s.size(), s.grow, s.seed, s.n_train,
                                     s.n_valid, s.n_test)
    drawn = lru_cache(maxsize=1)(drawn)  # the first epoch's give the model its words, too
    if not s.generated and s.steps:
        lines = [line for example in drawn(0) for line in lines_of(example.steps)]
        s.steps = "sentences" if any(line.endswith("\n") for line in lines) else "names"
    seen = checksum([*(() if s.generated else drawn(0)), *valid, *test])  # a seed fixes the others
    if not s.resume:
        model, enc, stage = start_model(s, drawn)
        optimizer, run = new_optimizer(s, model.to(device)), Run(stage=stage, problems=seen)
    else:
        ckpt, model, enc = load_run(checkpoint_of(s), device)
        optimizer, run = new_optimizer(s, model), Run(**ckpt["run"])
        if run.problems not in ("", seen):  # "": it was not noted in older runs
            raise UserError(f"{s.data} has other problems than when the run began: start anew")
        try:
            optimizer.load_state_dict(ckpt["optimizer"])
            torch.set_rng_state(ckpt["rng"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{checkpoint_of(s)} cannot be resumed ({error})") from error
        if device.type == "cuda" and "cuda_rng" in ckpt:  # a run may have moved from a CPU
            torch.cuda.set_rng_state(ckpt["cuda_rng"], device)
    if RANK > 0:  # dropout differs in every rank
        torch.manual_seed(s.seed + 1_000_003 * RANK + run.step)

    c = s.curriculum()
    if stage_at(s.epochs - 1e-3, c) < last_stage(c):
        print(f"note: {s.epochs} epochs end before stage {last_stage(c)}, the last")

    def fit(examples):
        return fitting(examples, enc, c, model.config.block_size)

    in_files = None if s.generated else fit(drawn(0))  # the same in every epoch
    valid, test = fit(valid), fit(test)
    if saved and s.max_steps != 0:
        if not s.resume:
            claim_folder(s)
        run.threads = run.threads or fastest_threads(s, model, enc, valid)
        torch.set_num_threads(run.threads)

    def of_epoch(epoch):
        return fit(drawn(epoch)) if s.generated else in_files

    return (of_epoch, valid, test), model, enc, optimizer, run


def fastest_threads(s, model, enc, examples):
    """With how many threads a training step of the last stage is fastest on a CPU: all that there
    are, or half as many, a quarter .. Leaves weights and generators as they are."""
    device, c, marks = next(model.parameters()).device, s.curriculum(), markers_of(enc)
    best = n = most = of_rank_0(torch.get_num_threads())  # machines may differ
    least = math.inf
    if device.type != "cpu" or most == 1:
        return most
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=s.dtype == "bfloat16")
    rows = [build(encode(e, enc), last_stage(c), c, marks) for e in examples[:s.micro_batch]]
    ids, targets, is_thought, is_real, start = collate(rows, marks.thought)
    while n:
        torch.set_num_threads(n)
        laps = []
        while len(laps) < 3 or len(laps) < 20 and sum(laps) < 1:  # the first warms up
            began = time.perf_counter()
            with torch.random.fork_rng(devices=[]), autocast:  # dropout draws
                hidden, _ = think(model, ids, is_thought, is_real, start)
                supervised_loss(model, hidden, targets).backward()
            laps.append(time.perf_counter() - began)
        seconds, = total([min(laps)], device)  # the ranks agree
        if seconds > least:
            break
        best, least, n = n, seconds, n // 2
    model.zero_grad()
    print(f"a step is fastest with {best} of {most} threads", flush=True)
    return best


def pick_device(name):
    """The torch.device of a name; auto is the fastest there is. UserError if it cannot be used."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if RANKS > 1 and name.startswith("cuda"):  # a GPU each
        name = f"cuda:{os.environ.get('LOCAL_RANK', RANK)}"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UserError(f"no device {name} here ({reason}): try --device cpu") from None
    return torch.device(name)


def new_optimizer(s, model):
    options = {"lr": s.learning_rate, "betas": (0.9, s.beta2), "weight_decay": s.weight_decay,
               "fused": True}
    if s.optimizer == "muon":
        return Muon(model, **options)
    return torch.optim.AdamW(model.parameters(), **options)


def start_model(s, drawn):
    """A model, its Encoding, and the stage to evaluate it at, as --init, --tokenizer and --stage
    say; the problems of the first epoch, drawn(0), give a new one its words."""
    options, stage = s.model_options(), last_stage(s.curriculum())
    if s.init == "scratch":
        enc = gpt2_encoding() if s.tokenizer == "gpt2" else word_encoding(map(text_of, drawn(0)))
        model = GPT(GPTConfig(vocab_size=enc.n_vocab, **options))
        help_small_models(model)
    elif is_other_model(s.init):
        model, enc = adapter().load(s.init, **options)
    elif not saved_settings(s.init):
        model, enc = load_gpt2(s.init, **options)
    else:
        ckpt, model, enc = load_run(s.init, **options)
        if (s.task, s.method) == (ckpt["settings"]["task"], ckpt["settings"]["method"]):
            stage = min(stage, ckpt["run"]["stage"])
        if not METHODS[ckpt["settings"]["method"]].fill:  # it never learned the markers: start them
            rows = model.wte.weight.data
            rows[list(markers_of(enc))] = rows[enc.encode_ordinary("<<")[0]].clone()
    if s.stage is not None and s.stage > last_stage(s.curriculum()):
        raise UserError(f"--stage {s.stage} is beyond the last, {last_stage(s.curriculum())}")
    if s.max_steps != 0:
        stage = -1  # none yet: the first batch begins one
    elif s.stage is not None:
        stage = s.stage
    return model, enc, stage


@torch.no_grad()
def help_small_models(model):
    """A start from which a small model learns sooner. This is neither GPT-2's nor Coconut's.

    Embeddings of tokens and positions start with norm 1, the positions as sinusoids. The last norm
    starts at 0.3, so that a thought, which is its output, starts not ten but three times as long as
    the embedding whose place it takes, and position and layers still count beside it."""
    C = model.config.n_embd
    torch.nn.init.normal_(model.wte.weight, std=C ** -0.5)
    model.ln_f.weight.fill_(0.3)
    frequency = 3 / 10000 ** (torch.arange(0, C, 2) / C)  # one for a sine and a cosine
    angle = torch.arange(model.config.block_size)[:, None] * frequency
    waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (block_size, C)
    model.wpe.weight.copy_(waves * (2 / C) ** 0.5)


def load_run(path, device="cpu", **options):
    """(checkpoint dict, model, Encoding) as train.py saved them; UserError for any other file.
    options: what its model's config is to have instead of what is saved."""
    ckpt = read_torch(path)
    if not is_checkpoint(ckpt):
        raise UserError(f"{path} is no checkpoint of train.py")
    other = adapter() if "transformers" in (ckpt.get("config") or ()) else None
    try:
        s, run = read_settings(ckpt["settings"]), Run(**ckpt["run"])
        ckpt["settings"], ckpt["unknown"] = asdict(s), s.unknown
        enc = (other.Encoding if other else tiktoken.Encoding)(**ckpt["encoding"])
        config = (other.Config if other else GPTConfig)(**ckpt["config"] | options)
        if ckpt["model"]["wte.weight"].shape != (config.vocab_size, config.n_embd):
            raise ValueError("its weights have other sizes than its config")
        markers_of(enc)  # fails if a special token is missing
        n_thoughts(run.stage, s.curriculum())  # fails if the stage is no number
    except Exception as error:  # whatever a stranger's file provokes
        raise UserError(f"{path} is no checkpoint of this version of train.py: "
                        f"{type(error).__name__} {error}") from error
    model = (other.Model if other else GPT)(config)
    try:
        model.load_state_dict(ckpt["model"])
    except Exception as error:  # missing, unexpected or misshapen tensors, or none at all
        raise UserError(f"{path} holds other weights than this version's model: {error}") from error
    return ckpt, model.to(device).eval(), enc


def tested_problems(s, source=None):
    """The test problems of a run; or of another source: all of a single file, the test split of a
    folder, and n_test generated ones, or 500 if the run's own come from files."""
    source = source or s.data
    if os.path.isfile(source) and not (os.path.exists(s.data) and os.path.samefile(source, s.data)):
        return unrepeated(read_examples(source), [], source)
    if source in GENERATED:
        n_valid, n_test = 1, (s.n_test if s.generated else 500)
    else:
        n_valid, n_test = (0, 0) if s.generated else (s.n_valid, s.n_test)
    return load_splits(source, s.task, s.size(), grow=0, seed=s.seed, n_train=1, n_valid=n_valid,
                       n_test=n_test)[2]


def problems_that_fit(s, model, enc, source=None):
    """Those of tested_problems that are not too long for the run's model."""
    examples = tested_problems(s, source)
    return fitting(examples, enc, s.curriculum(), model.config.block_size)
