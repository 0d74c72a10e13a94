"""
What a run costs: milliseconds a step by part, at every stage of its curriculum. The parts are
drawing or reading problems; making them tokens, sequences, a batch; `think` and the loss; the
gradient; the optimizer; and the evaluation after an epoch, as its share of a step.

GFLOP are the operations of a step, forward and backward; beside those that it does in a second
stand those of a large matrix product. ours/floor and slow/ours compare the time of `think`, whose
K + 1 passes share a cache, with two passes that take thoughts for tokens, and with the definition,
K + 1 passes over everything. All are medians over some batches, ratios within a batch. On CUDA
the most memory that each of the three needs follows, weights and optimizer included.
"""
import math
import random
from collections import Counter
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch

from curriculum import build, last_stage, stage_at
from data import batches, collate, count_targets, encode, markers_of
from harness.ranks import micro_batches
from harness.settings import complete, parse
from harness.start import saved_settings, start_run
from model import positions_and_mask, supervised_loss, think
from tasks.record import UserError
from train import evaluate

PARTS = ["problems", "tokens", "forward", "backward", "optimizer", "evaluation"]
BATCHES, WARM_UP = 13, 3  # at each stage, of which the first are not counted


def slow_think(model, ids, is_thought, is_real, start):
    """The definition of `think`."""
    (pos, mask), x = positions_and_mask(is_real), model.embed(ids)
    for column in is_thought.any(dim=0).nonzero().flatten().tolist():
        hidden, _ = model(x, pos, mask)
        thought = model.thought(hidden[:, column - 1])  # (B, C)
        new = torch.where(is_thought[:, column, None], thought, x[:, column])
        x = torch.cat([x[:, :column], new[:, None], x[:, column + 1:]], dim=1)
    hidden, cache = model(x, pos, mask)
    return hidden[:, start - 1:], cache


def stopwatch(device):
    """A function that returns the seconds since its last call, or since now."""
    last = perf_counter()

    def lap():
        nonlocal last
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        before, last = last, perf_counter()
        return last - before
    return lap


def step_flops(model, targets, is_real, start):
    """FLOPs that a step needs: 2 forward and 4 backward for each weight and token, and attention's
    two products. Padding is work without use, and so is not counted."""
    config, lengths = model.config, is_real.sum(dim=1)
    wanted = is_real[:, start - 1:].sum(dim=1)  # states that the last layer computes
    full = (config.n_layer - 1) * lengths + wanted
    dense = 12 * full + 2 * (lengths - wanted)  # the last layer's keys and values
    head = config.vocab_size * (targets >= 0).sum(dim=1)
    each = config.n_embd * dense + 2 * lengths * full + head
    return 6 * config.n_embd * each.sum().item()


def measure(s):
    """A row for each stage of the run that these Settings make."""
    few = replace(s, n_train=BATCHES * s.batch_size) if s.generated else s
    (examples_of_epoch, valid, _), model, enc, optimizer, _ = start_run(few, saved=False)
    c, marks, device = s.curriculum(), markers_of(enc), model.wte.weight.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=s.dtype == "bfloat16")
    rng, lap, n = random.Random(0), stopwatch(device), 2048 if device.type == "cpu" else 8192
    matrix, rows = torch.randn(n, n, device=device, dtype=getattr(torch, s.dtype)), []

    def step(batch, stage):
        """One of train.py's, and the other two ways: {part or way: seconds, "flops": .., ..}."""
        spent, _ = Counter(), lap()
        sequences = [build(encode(example, enc), stage, c, marks, rng) for example in batch]
        for part in micro_batches(sequences, s.micro_batch):
            ids, targets, is_thought, is_real, start = collate(part, marks.thought, device)
            spent["tokens"] += lap()
            for way, loop, thoughts in (("floor", think, torch.zeros_like(is_thought)),
                                        ("slow", slow_think, is_thought),
                                        ("ours", think, is_thought)):
                optimizer.zero_grad()
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)  # to what is held now
                lap()
                with autocast:
                    hidden, _ = loop(model, ids, thoughts, is_real, start)
                    loss = supervised_loss(model, hidden, targets)
                forward = lap()
                loss.backward()
                backward = lap()
                spent[way] += forward + backward
                if device.type == "cuda":
                    spent[f"{way} MB"] = torch.cuda.max_memory_allocated(device) / 2**20
            spent.update(forward=forward, backward=backward,  # ours, the last way
                         flops=step_flops(model, targets, is_real, start))
            lap()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or torch.inf)
        optimizer.step()
        spent["optimizer"] = lap()
        matrix @ matrix
        spent["matmul"] = lap()
        return spent

    for stage in range(stage_at(0, c), last_stage(c) + 1):
        lap()
        examples = examples_of_epoch(s.epochs)  # by then they have grown to full size
        some = batches(examples, s.batch_size, rng)
        problems = lap() / len(some)
        model.train()
        steps = [step(batch, stage) for batch in (some * BATCHES)[:BATCHES]][WARM_UP:]
        longest = max(count_targets([build(encode(example, enc), stage, c, marks)])
                      for example in valid)  # a new model has not learned when to stop
        lap()
        with autocast:
            evaluate(model, valid, stage, c, enc, s.micro_batch, longest)
        in_epoch = math.ceil((s.n_train if s.generated else len(examples)) / s.batch_size)
        spent = {name: median(one[name] for one in steps) for name in steps[0]} | {
            "problems": problems, "evaluation": lap() / in_epoch}
        stages = [stage_at(i / in_epoch, c) for i in range(s.epochs * in_epoch)]
        rows.append({"stage": stage} | {f"{part} ms": 1e3 * spent[part] for part in PARTS} | {
            "step ms": sum(1e3 * spent[part] for part in PARTS), "steps": stages.count(stage),
            "GFLOP": spent["flops"] / 1e9, "GFLOP per s": spent["flops"] / spent["ours"] / 1e9,
            "matmul's": 2 * n ** 3 / spent["matmul"] / 1e9,
            "ours/floor": median(one["ours"] / one["floor"] for one in steps),
            "slow/ours": median(one["slow"] / one["ours"] for one in steps),
            **{name: value for name, value in spent.items() if name.endswith("MB")}})
    return rows


def bench(args):
    """Measure what a run costs, in ms a step: takes the options of train.py."""
    given = parse(args.of_train, "-m analysis bench", "What a run costs.")
    unused = {"resume", "max_steps", "out_dir", "save_every", "max_new_tokens", "n_test"}
    for name in unused & given.keys():
        raise UserError(f"--{name} changes nothing: whole runs are measured, and none is kept")
    rows = measure(complete(given, saved_settings(given.get("init", "scratch"))))
    steps, ms, gflop = (sum(row["steps"] * row.get(name, 1) for row in rows)
                        for name in ("", "step ms", "GFLOP"))
    return {"parts of a step": rows, "a whole run":
            f"{steps} steps, {ms / 60e3:.1f} min, {gflop / 1e3:.1f} TFLOP"}
