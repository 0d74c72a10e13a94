"""
Train a model to reason in continuous thoughts: one loop for three tasks and eight methods.

    python train.py --task prontoqa               from scratch, on any machine, nothing to download
    python train.py --task prosqa --method cot    a baseline; curriculum.py shows all eight methods
    python train.py --task prosqa --init gpt2 --data official      the paper's recipe, on GPT-2
    python train.py --task prosqa --resume        continue an interrupted run

Each epoch belongs to a stage. A new stage replaces one more step of every chain by thoughts, so the
training loss usually jumps, then falls. After every epoch the model answers the validation problems
as at test time: given the question and the stage's thoughts, it writes the rest, greedily.
"""
import math
import os
import random
import sys
import time

import torch

from curriculum import METHODS, NO_LOSS, build, last_stage, n_thoughts, prompt, stage_at
from data import batches, encode, markers_of
from evaluate import batch_loss, count_learned, evaluate
from parallel import RANK, RANKS, leave, micro_batches, shared_loss, total
from runs import (Stop, new_optimizer, save, save_metrics, settings_of_new_run,
                  settings_of_resumed_run, start)
from settings import parse

ON_TERMINAL = sys.stdout.isatty()
LINE_START = "\r\033[K" if ON_TERMINAL else ""  # erases the progress line


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
    last = min(s.epochs * steps_in_epoch, s.max_steps or sys.maxsize)
    left = round((last - run.step) * run.seconds / run.step)
    line = (f"epoch {run.epoch + 1}/{s.epochs}  stage {run.stage}  step {run.step}/{last}  "
            f"loss {run.nats / run.learned:.4f}  {run.step / run.seconds:.2f} steps/s  "
            f"{left // 60}:{left % 60:02} left")
    if ON_TERMINAL:
        print(LINE_START + line, end="", flush=True)
    elif run.step % 50 == 0:
        print(line, flush=True)


def drop_too_long(examples, enc, c, block_size):
    """The Examples that fit into the block at every stage; says how many do not."""
    most = len(prompt([], n_thoughts(last_stage(c), c), c, markers_of(enc)))

    def length(example):
        question, steps, answer = encode(example, enc)
        return len(question) + most + sum(map(len, steps)) + len(answer)

    kept = [example for example in examples if length(example) <= block_size]
    if not kept:
        raise SystemExit(f"train.py: no problem fits into {block_size} tokens: give more by "
                         "--block_size")
    if len(kept) < len(examples):
        print(f"left out {len(examples) - len(kept)} of {len(examples)} problems: they need more "
              f"than the {block_size} tokens of --block_size")
    return kept


# --------------------------------------------------------------------------------------------------
# The loop

def learning_rate(s, run, steps_in_epoch):
    """Grows over warmup_steps after the optimizer's start, falls over the last decay_epochs."""
    epochs_left = s.epochs - run.epoch - run.batch / steps_in_epoch
    warm = run.stage_step / s.warmup_steps if s.warmup_steps else 1
    cool = epochs_left / s.decay_epochs if s.decay_epochs else 1
    return s.learning_rate * min(1, warm, cool)


def train(s, splits, model, enc, optimizer, run, stop):
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
    cut, saved = False, time.perf_counter()

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
        if run.step == 0:
            save(s, run, model, optimizer, enc)  # a full disk shows now, not after an hour
        model.train()
        for batch in epoch_batches[run.batch:]:
            learned, nats = count_learned(batch), 0.0
            for part in micro_batches(batch, s.micro_batch):
                with autocast:
                    loss = loss_of(part)
                (loss / learned).backward()  # summed over micro-batches: the mean of the batch
                nats += loss.item()
            nats, stopping = total([nats / RANKS, stop.asked], device)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or math.inf)
            if not math.isfinite(nats + norm):
                raise FloatingPointError(
                    f"at step {run.step + 1} the loss is {nats / learned:.3g}, the gradient's norm "
                    f"{norm:.3g}: try a smaller --learning_rate, --grad_clip 1, --dtype float32. "
                    f"{s.out_dir} keeps the run as it was a little earlier")
            run.nats, run.stage_step = run.nats + nats, run.stage_step + 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(s, run, len(epoch_batches))
            optimizer.step()
            optimizer.zero_grad()
            run.learned, run.batch, run.step = run.learned + learned, run.batch + 1, run.step + 1
            run.seconds = time.perf_counter() - began
            progress(s, run, len(epoch_batches))
            cut = run.step == s.max_steps
            whole = run.batch == len(epoch_batches)
            if cut or whole or stopping or time.perf_counter() > saved + s.save_every:
                save(s, run, model, optimizer, enc)
                saved = time.perf_counter()
            if stopping:
                stop.now()
            if cut:
                break

        with autocast, stop.at_once():
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

    with autocast, stop.at_once():
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


def main(argv=None):
    if RANK > 0:  # one rank speaks for all
        sys.stdout = open(os.devnull, "w")
    given = parse(argv)
    try:
        s = (settings_of_resumed_run if given.get("resume") else settings_of_new_run)(given)
        parts = start(s)
    except ValueError as error:  # a person's mistake; later ones are the program's
        raise SystemExit(f"train.py: {error}")
    except KeyboardInterrupt:
        raise SystemExit("train.py: stopped before its first step")
    try:
        with Stop(s.out_dir) as stop:
            line = train(s, *parts, stop)
    except (OSError, FloatingPointError) as error:  # the disk's mistake, or the numbers'
        raise SystemExit(f"train.py: {error}")
    leave()
    return line


if __name__ == "__main__":
    main()
