"""
What a run costs: milliseconds a step by part, at every stage of its curriculum. The parts are
drawing or reading problems; making them tokens, sequences and a batch; `think` and the loss; the
gradient; clipping and the optimizer; and the evaluation after an epoch, as its share of a step.
GFLOP are the operations of a step, forward and backward; beside those that it does in a second
stand those of a large matrix product.
"""
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import cycle, islice
from time import perf_counter

import torch

from analysis.runs import print_table
from curriculum import build, last_stage, stage_at
from data import batches, collate, count_targets, encode, markers_of
from harness.ranks import micro_batches
from harness.settings import complete, parse
from harness.start import saved_settings, start_run
from model import GPT, supervised_loss, think
from tasks.record import UserError
from train import evaluate

PARTS = ["problems", "tokens", "forward", "backward", "optimizer", "evaluation"]
STEPS, WARM_UP = 20, 3  # steps that are timed at each stage, after some that are not


def step_flops(model, targets, is_real, start):
    """FLOPs of a step: 2 forward and 4 backward for each weight and token, and attention's two
    products. Padding is work without use, and so is not counted."""
    config, lengths = model.config, is_real.sum(dim=1)
    wanted = is_real[:, start - 1:].sum(dim=1)  # states that the last layer computes
    full = (config.n_layer - 1) * lengths + wanted
    dense = 12 * full + 2 * (lengths - wanted)  # the last layer's keys and values
    head = config.vocab_size * (targets >= 0).sum(dim=1)
    each = config.n_embd * dense + 2 * lengths * full + head
    return 6 * config.n_embd * each.sum().item()


def measure(s):
    """A row for each stage of the run that these Settings make."""
    few = replace(s, n_train=STEPS * s.batch_size) if s.generated else s
    (examples_of_epoch, valid, _), model, enc, optimizer, _ = start_run(few, saved=False)
    if not isinstance(model, GPT):
        raise UserError("bench knows what GPT-2 computes, and no other model")
    c, marks, device = s.curriculum(), markers_of(enc), model.wte.weight.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=s.dtype == "bfloat16")
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, s.dtype))
    rng, rows, spent = random.Random(0), [], Counter()  # seconds by part, and FLOPs
    last = perf_counter()

    def lap(part):
        """What happened since the last lap was this part."""
        nonlocal last
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        before, last = last, perf_counter()
        spent[part] += last - before

    def step(batch, stage):
        lap("other")
        sequences = [build(encode(example, enc), stage, c, marks, rng) for example in batch]
        for part in micro_batches(sequences, s.micro_batch):
            ids, targets, is_thought, is_real, start = collate(part, marks.thought, device)
            lap("tokens")
            with autocast:
                hidden, _ = think(model, ids, is_thought, is_real, start)
                loss = supervised_loss(model, hidden, targets) / count_targets(sequences)
            lap("forward")
            loss.backward()
            lap("backward")
            spent["FLOP"] += step_flops(model, targets, is_real, start)
            lap("other")
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        lap("optimizer")
        matrix @ matrix
        lap("matrix product")

    for stage in range(stage_at(0, c), last_stage(c) + 1):
        model.train()
        for _ in range(WARM_UP):
            step(valid[:s.batch_size], stage)
        spent.clear()
        lap("other")
        examples = examples_of_epoch(s.epochs + stage)  # by then they have grown to full size
        some = batches(examples, s.batch_size, rng)
        lap("problems")
        for batch in islice(cycle(some), STEPS):
            step(batch, stage)
        longest = max(count_targets([build(encode(example, enc), stage, c, marks)])
                      for example in valid)  # a new model has not learned when to stop
        lap("other")
        with autocast:
            evaluate(model, valid, stage, c, enc, s.micro_batch, longest)
        lap("evaluation")

        in_epoch = math.ceil((s.n_train if s.generated else len(examples)) / s.batch_size)
        stages = [stage_at(i / in_epoch, c) for i in range(s.epochs * in_epoch)]
        steps = {"problems": len(some), "evaluation": in_epoch}  # that it took once
        ms = {part: 1e3 * spent[part] / steps.get(part, STEPS) for part in PARTS}
        rows.append({"stage": stage} | ms | {
            "step": sum(ms.values()), "steps of a run": stages.count(stage),
            "GFLOP": spent["FLOP"] / STEPS / 1e9,
            "GFLOP per s": spent["FLOP"] / (spent["forward"] + spent["backward"]) / 1e9,
            "matmul's": STEPS * 2 * side ** 3 / spent["matrix product"] / 1e9})
    return rows


def bench(options):
    """Measure what a run costs, in ms a step: takes the options of train.py."""
    given = parse(options, "-m analysis bench", "What a run costs.")
    for name in {"resume", "max_steps", "out_dir", "save_every", "n_test"} & given.keys():
        raise UserError(f"--{name} changes nothing: whole runs are measured, and none is kept")
    rows = measure(complete(given, saved_settings(given.get("init", "scratch"))))
    print_table(rows[0], [[f"{value:.1f}" if isinstance(value, float) else value
                           for value in row.values()] for row in rows])
    steps, ms, gflop = (sum(row["steps of a run"] * row.get(name, 1) for row in rows)
                        for name in ("", "step", "GFLOP"))
    print(f"\na whole run: {steps} steps, {ms / 60e3:.1f} min, {gflop / 1e3:.1f} TFLOP")
