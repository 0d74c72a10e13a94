"""
Train a model to reason in continuous thoughts: one loop for three tasks and eight methods.

    python train.py --task prontoqa               from scratch, on any machine, nothing to download
    python train.py --task prosqa --method cot    a baseline; curriculum.py shows all eight methods
    python train.py --task prosqa --init gpt2 --data official      the paper's, on OpenAI's GPT-2
    python train.py --task prosqa --resume        go on with a run that was cut

Each epoch belongs to a stage. A new stage replaces one more step of every chain by thoughts, so the
training loss jumps and falls again. After every epoch the model answers the validation problems as
it will at test time: given the question and the stage's thoughts, it writes the rest, greedily.
"""
import json
import os
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass, field

import torch

from curriculum import METHODS, NO_LOSS, build, last_stage, n_thoughts, prompt, stage_at
from data import (batches, encode, encoding_state, gpt2_encoding, load_splits, markers_of, text_of,
                  word_encoding)
from evaluate import batch_loss, count_learned, evaluate, load_run, pick_device
from model import GPT, GPTConfig, torch_load
from parallel import RANK, RANKS, join, leave, micro_batches, shared_loss, total
from settings import Settings, check, complete, parse

ON_TERMINAL = sys.stdout.isatty()
LINE_START = "\r\033[K" if ON_TERMINAL else ""  # erases the progress line


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
# Start, save, resume

def start_model(s, texts):
    """A model and its Encoding, as --init and --tokenizer say; texts give a new one its words."""
    if s.init == "scratch":
        enc = gpt2_encoding() if s.tokenizer == "gpt2" else word_encoding(texts)
        sizes = (s.block_size, enc.n_vocab, s.n_layer, s.n_head, s.n_embd, s.dropout)
        return GPT(GPTConfig(*sizes)), enc
    if saved := saved_settings(s.init):
        _, model, enc = load_run(s.init, dropout=s.dropout)
        if not METHODS[saved["method"]].fill:  # it has never used the markers: they start now
            rows = model.wte.weight.data
            rows[list(markers_of(enc))] = rows[enc.encode_ordinary("<<")[0]].clone()
        return model, enc
    model = GPT.from_pretrained(s.init, dropout=s.dropout)
    enc = gpt2_encoding()
    if not 50257 <= model.config.vocab_size <= enc.n_vocab:
        raise ValueError(f"{s.init} has {model.config.vocab_size} tokens, which are not GPT-2's")
    model.grow_vocab(enc.n_vocab, like=enc.encode_single_token("<<"))  # as official run.py:145-157
    return model, enc


def saved_settings(path):
    """The settings in a checkpoint of train.py; None if the path is anything else."""
    saved = torch_load(path) if os.path.isfile(path) else None
    return saved["settings"] if isinstance(saved, dict) and "settings" in saved else None


def new_optimizer(s, model):
    return torch.optim.AdamW(model.parameters(), s.learning_rate, betas=(0.9, s.beta2),
                             weight_decay=s.weight_decay, fused=True)


def start(s):
    """All that `train` needs besides Settings, for a new run or a resumed one."""
    torch.manual_seed(s.seed)
    device = join(pick_device(s.device))
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


def save(s, run, model, optimizer, enc):
    """Write out_dir/ckpt.pt: all it takes to evaluate, sample, analyze and resume."""
    ckpt = {"settings": asdict(s), "run": asdict(run), "encoding": encoding_state(enc),
            "config": asdict(model.config), "model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    if model.wte.weight.is_cuda:
        ckpt["cuda_rng"] = torch.cuda.get_rng_state(model.wte.weight.device)
    write_whole(os.path.join(s.out_dir, "ckpt.pt"), "wb", lambda file: torch.save(ckpt, file))


def save_metrics(s, run, *results):
    """Write out_dir/metrics.jsonl: a line on the run itself, one for each epoch, the results."""
    cuda = torch.cuda.is_available() and s.device not in ("cpu", "mps")
    machine = torch.cuda.get_device_name() if cuda else platform.processor()
    header = {"settings": asdict(s), "machine": machine or platform.machine(),
              "ranks": RANKS, "threads": torch.get_num_threads(), "torch": torch.__version__,
              "python": platform.python_version()}
    text = "".join(json.dumps(line) + "\n" for line in [header, *run.history, *results])
    write_whole(os.path.join(s.out_dir, "metrics.jsonl"), "w", lambda file: file.write(text))


def write_whole(path, mode, write):
    """Let write(file) make a new version of a file; a crash on the way leaves the old one."""
    if RANK > 0:  # one rank writes for all
        return
    with open(path + ".tmp", mode) as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


# --------------------------------------------------------------------------------------------------
# What a run prints

def announce(stage, s, example, enc):
    """Say what a new stage trains, on one example, split where the loss begins."""
    c = s.curriculum()
    k, fill = n_thoughts(stage, c), METHODS[c.method].fill or "thought"
    ids, targets = build(encode(example, enc), stage, c, markers_of(enc))
    start = targets.count(NO_LOSS)
    print(f"\nstage {stage} of {s.method}: {k} {fill}{'' if k == 1 else 's'}\n"
          f"  given    {enc.decode(ids[:start])!r}\n  learned  {enc.decode(ids[start:])!r}\n")


def progress(s, run, steps_in_epoch):
    """On a terminal one line, rewritten at every step; in a pipe a plain line now and then."""
    total = min(s.epochs * steps_in_epoch, s.max_steps or sys.maxsize)
    left = round((total - run.step) * run.seconds / run.step)
    line = (f"epoch {run.epoch + 1}/{s.epochs}  stage {run.stage}  step {run.step}/{total}  "
            f"loss {run.nats / run.learned:.4f}  {run.step / run.seconds:.2f} steps/s  "
            f"{left // 60}:{left % 60:02} left")
    if ON_TERMINAL:
        print(LINE_START + line, end="", flush=True)
    elif run.step % 50 == 0:
        print(line, flush=True)


def drop_too_long(examples, enc, c, block_size):
    """The Examples that fit into the block at every stage; says how many do not."""
    most = len(prompt([], n_thoughts(last_stage(c), c), c.method, markers_of(enc)))

    def length(example):
        question, steps, answer = encode(example, enc)
        return len(question) + most + sum(map(len, steps)) + len(answer)

    kept = [example for example in examples if length(example) <= block_size]
    if not kept:
        raise SystemExit(f"train.py: no problem fits into a block of {block_size} tokens")
    if len(kept) < len(examples):
        print(f"left out {len(examples) - len(kept)} of {len(examples)} problems: "
              f"they need more than {block_size} tokens")
    return kept


# --------------------------------------------------------------------------------------------------
# The loop

def learning_rate(s, run, steps_in_epoch):
    """Grows over warmup_steps after the optimizer's start, falls over the last decay_epochs."""
    epochs_left = s.epochs - run.epoch - run.batch / steps_in_epoch
    warm = run.stage_step / s.warmup_steps if s.warmup_steps else 1
    cool = epochs_left / s.decay_epochs if s.decay_epochs else 1
    return s.learning_rate * min(1, warm, cool)


def train(s, splits, model, enc, optimizer, run):
    """Take a run through its curriculum; returns its results on the test split."""
    train_split, valid, test = splits
    c, marks, block_size = s.curriculum(), markers_of(enc), model.config.block_size
    valid, test = (drop_too_long(split, enc, c, block_size) for split in (valid, test))
    final = stage_at(s.epochs - 1, c)
    if final < last_stage(c):
        print(f"note: {s.epochs} epochs end at stage {final} of {last_stage(c)}")
    device = model.wte.weight.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=s.dtype == "bfloat16")
    loss_of = shared_loss(model, lambda *batch: batch_loss(*batch, marks.thought))
    began = time.perf_counter() - run.seconds
    cut = False

    while run.epoch < s.epochs and not cut:
        stage = stage_at(run.epoch, c)
        examples = drop_too_long(train_split(run.epoch), enc, c, block_size)
        if stage != run.stage:
            announce(stage, s, max(examples[:50], key=lambda e: len(e.steps)), enc)
            run.stage = stage
            if s.reset_optimizer:  # its averages are those of another task; the paper does so too
                optimizer, run.stage_step = new_optimizer(s, model), 0

        rng = random.Random(f"epoch {run.epoch} seed {s.seed}")
        sequences = [build(encode(example, enc), stage, c, marks, rng) for example in examples]
        epoch_batches = batches(sequences, s.batch_size, rng)
        if run.batch > len(epoch_batches):
            raise SystemExit(f"train.py: {s.data} has fewer problems than when the run began")
        model.train()
        for batch in epoch_batches[run.batch:]:
            learned, nats = count_learned(batch), 0.0
            for part in micro_batches(batch, s.micro_batch):
                with autocast:
                    loss = loss_of(part)
                (loss / learned).backward()  # summed over micro-batches: the mean of the batch
                nats += loss.item()
            run.nats += total([nats], device)[0] / RANKS
            if s.grad_clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
            run.stage_step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(s, run, len(epoch_batches))
            optimizer.step()
            optimizer.zero_grad()
            run.learned, run.batch, run.step = run.learned + learned, run.batch + 1, run.step + 1
            run.seconds = time.perf_counter() - began
            progress(s, run, len(epoch_batches))
            cut = run.step == s.max_steps
            if cut:
                break

        with autocast:
            result = evaluate(model, valid, stage, c, enc, s.micro_batch, s.max_new_tokens)
        run.seconds = time.perf_counter() - began
        print(f"{LINE_START}epoch {run.epoch + 1}/{s.epochs}  stage {stage}  "
              f"train loss {run.nats / run.learned:.4f}  valid loss {result['loss']:.4f}  "
              f"accuracy {result['accuracy']:.1%}  tokens {result['tokens']:.1f}  "
              f"{run.seconds / 60:.1f} min", flush=True)
        if run.batch == len(epoch_batches):  # this epoch is whole
            run.history.append({"epoch": run.epoch + 1, "stage": stage, "step": run.step,
                                "train_loss": run.nats / run.learned,
                                **{f"val_{name}": value for name, value in result.items()},
                                "seconds": round(run.seconds, 1)})
            run.epoch, run.batch, run.nats, run.learned = run.epoch + 1, 0, 0.0, 0
        save(s, run, model, optimizer, enc)
        save_metrics(s, run)

    with autocast:
        result = evaluate(model, test, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
    line = {"stage": run.stage, "step": run.step, "seconds": round(run.seconds, 1),
            **{f"test_{name}": value for name, value in result.items()}}
    save_metrics(s, run, line)
    print(f"\ntest accuracy {result['accuracy']:.1%} on {len(test)} problems never trained on, at "
          f"stage {run.stage}, with {result['tokens']:.1f} tokens a problem")
    if run.epoch < s.epochs:
        print(f"go on:  python train.py --out_dir {s.out_dir} --resume")
    print(f"look:   python sample.py --ckpt {os.path.join(s.out_dir, 'ckpt.pt')} --index 0")
    return line


def settings_of_new_run(given):
    s = complete(given, saved_settings(given.get("init", "scratch")))
    if os.path.exists(os.path.join(s.out_dir, "ckpt.pt")):
        raise ValueError(f"{s.out_dir} holds a run: go on with it by --resume, or name another "
                         "folder by --out_dir")
    try:
        os.makedirs(s.out_dir, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {s.out_dir} ({error.strerror}): name another one "
                         "by --out_dir") from None
    return s


def settings_of_resumed_run(given):
    """Those of the checkpoint. ValueError if an option contradicts them; a few are free."""
    free = {"resume", "out_dir", "device", "epochs", "micro_batch", "max_steps"}
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


def main(argv=None):
    if RANK > 0:  # one rank speaks for all
        sys.stdout = open(os.devnull, "w")
    given = parse(argv)
    try:
        s = (settings_of_resumed_run if given.get("resume") else settings_of_new_run)(given)
        parts = start(s)
    except ValueError as error:  # a person's mistake; later ones are the program's
        raise SystemExit(f"train.py: {error}")
    line = train(s, *parts)
    leave()
    return line


if __name__ == "__main__":
    main()
