"""
Train a model to reason in continuous thoughts: one loop for all tasks and eight methods.

    python train.py --task prontoqa               from scratch, on any machine, nothing to download
    python train.py --task prosqa --method cot    a baseline; curriculum.py shows all eight methods
    python train.py --task prosqa --init gpt2 --data official      the paper's recipe, on GPT-2
    python train.py --task prosqa --resume        continue an interrupted run

Each epoch belongs to a stage; with icot each part of an epoch does. With coconut a new stage
replaces one more written step by thoughts. After every epoch the model answers the validation
problems as at test time, greedily.

The loop below is all that learning needs. What a run needs besides is in harness/: its options and
their defaults (settings.py), how it starts (start.py), and several GPUs (ranks.py). A Keeper
(keeper.py) saves and prints. Ctrl-C makes it save the run and stop; with --resume its `epochs` and
`batches` leave out what is done, and the run ends as if it had never stopped.
"""
import math
import os
import random
import sys

import torch

from curriculum import build, parts_of_epoch, stage_at
from data import batches, collate, count_learned, encode, markers_of
from harness.keeper import Keeper
from harness.ranks import RANK, leave, micro_batches, sum_gradients
from harness.settings import parse
from harness.start import settings_of_new_run, settings_of_resumed_run, start
from model import first_predicting, supervised_loss, think
from sample import evaluate


def learning_rate(s, run, steps_in_epoch):
    """Grows over warmup_steps, also after a reset of the optimizer; falls over decay_epochs."""
    epochs_left = s.epochs - run.epoch - run.batch / steps_in_epoch
    warm = (run.stage_step + 1) / s.warmup_steps if s.warmup_steps else 1
    cool = epochs_left / s.decay_epochs if s.decay_epochs else 1
    return s.learning_rate * min(1, warm, cool)


def train(s, splits, model, enc, optimizer, keeper):
    """Take a run through its curriculum; returns its results on the test split."""
    examples_of_epoch, valid, test = splits
    c, marks = s.curriculum(), markers_of(enc)
    run, device = keeper.run, model.wte.weight.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=s.dtype == "bfloat16")

    for epoch in keeper.epochs():
        examples = examples_of_epoch(epoch)
        parts, epoch_batches = parts_of_epoch(c), []
        rng = random.Random(f"epoch {epoch} seed {s.seed}")
        for i in range(parts):  # one, but several with icot, each with its stage
            stage, some = stage_at(epoch, c, i), examples[i::parts]
            sequences = [build(encode(example, enc), stage, c, marks, rng) for example in some]
            epoch_batches += [(stage, batch) for batch in batches(sequences, s.batch_size, rng)]
        model.train()
        for stage, batch in keeper.batches(epoch_batches):
            if stage != run.stage:
                run.stage = stage
                keeper.at_new_stage(examples)
                if s.reset_optimizer:  # its averages are of the stage before; as in the paper
                    optimizer.state.clear()
                    run.stage_step = 0
            nats, learned = 0.0, count_learned(batch)  # summed loss, and its number of tokens
            for rows in micro_batches(batch, s.micro_batch):
                ids, targets, thought, real = collate(rows, marks.thought, device)
                with autocast:
                    hidden = think(model, ids, thought, real, since=first_predicting(targets))
                    loss = supervised_loss(model, hidden, targets)
                (loss / learned).backward()  # micro-batches add up to the batch's mean
                nats += loss.item()
            sum_gradients(model)  # over the GPUs, if there are several
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or math.inf)
            keeper.before_step(nats, learned, norm)  # ends the run if they are not finite
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(s, run, len(epoch_batches))
            optimizer.step()
            optimizer.zero_grad()
            keeper.after_step()

        with autocast, keeper.evaluation():
            result = evaluate(model, valid, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
        keeper.after_epoch(result)

    with autocast, keeper.evaluation():
        result = evaluate(model, test, run.stage, c, enc, s.micro_batch, s.max_new_tokens)
    return keeper.finish(result)


def main(argv=None):
    if RANK > 0:  # one rank speaks for all
        sys.stdout = open(os.devnull, "w")
    given = parse(argv)
    try:
        if given.get("resume"):
            s = settings_of_resumed_run(given)
        else:
            s = settings_of_new_run(given)
        splits, model, enc, optimizer, run = start(s)
    except ValueError as error:  # a wrong option or file; a later ValueError is a bug
        raise SystemExit(f"train.py: {error}")
    except KeyboardInterrupt:
        raise SystemExit("train.py: stopped before its first step")
    try:
        keeper = Keeper(s, run, model, optimizer, enc)
        with keeper.stop:
            result = train(s, splits, model, enc, optimizer, keeper)
    except (OSError, FloatingPointError) as error:  # a full disk, or a loss of nan
        raise SystemExit(f"train.py: {error}")
    leave()
    return result


if __name__ == "__main__":
    main()
