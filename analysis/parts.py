"""
Where the time of a run goes: milliseconds a step by part, at every stage of its curriculum.

    python -m analysis.parts                                  the default run, of ProntoQA
    python -m analysis.parts --task prosqa --n_layer 3        any other: it takes train.py's options

    problems     drawing them, or reading them off their file
    tokens       encoding, sequences, padding
    forward      `think` and the loss
    backward     the gradient
    optimizer    clipping and the step
    evaluation   of the validation problems after an epoch, as its share of a step

Beside them: the operations of a step, forward and backward, in GFLOP; how many of these a second
it reaches; and how many a large matrix product does. A last line adds up the whole run. A new
model has not learned when to stop: it writes as much as the longest solution has.
"""
import math
import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import torch

from analysis.bench import matmul_flops, now, step_flops
from analysis.runs import print_table
from curriculum import build, last_stage, stage_at
from data import batches, collate, count_targets, encode, markers_of
from harness.ranks import micro_batches
from harness.settings import complete, parse
from harness.start import saved_settings, start_run
from model import supervised_loss, think
from tasks.record import UserError
from train import evaluate

PARTS = ["problems", "tokens", "forward", "backward", "optimizer", "evaluation"]
STEPS, WARM_UP = 20, 3  # steps that are timed at each stage, after some that are not
UNUSED = ("resume", "max_steps", "out_dir", "save_every", "max_new_tokens", "n_test")


def measure(s):
    """[{"stage": .., part: ms a step, .., "step": their sum, "steps of a run", "GFLOP" of a step,
    "GFLOP per s", "matmul's"}, ..]."""
    few = replace(s, n_train=(STEPS + WARM_UP) * s.batch_size) if s.generated else s
    (examples_of_epoch, valid, _), model, enc, optimizer, _ = start_run(few)
    c, marks, device = s.curriculum(), markers_of(enc), str(model.wte.weight.device)
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16,
                              enabled=s.dtype == "bfloat16")
    seconds, rng = Counter(), random.Random(0)

    @contextmanager
    def timed(part):
        began = now(device)
        yield
        seconds[part] += now(device) - began

    def step(batch, stage):
        """Returns the FLOPs that it needs."""
        with timed("tokens"):
            rows = [build(encode(example, enc), stage, c, marks, rng) for example in batch]
        flops, n_targets = 0, count_targets(rows)
        for part in micro_batches(rows, s.micro_batch):
            with timed("tokens"):
                collated = collate(part, marks.thought, device)
            with timed("forward"), autocast:
                ids, targets, is_thought, is_real, start = collated
                hidden, _ = think(model, ids, is_thought, is_real, start)
                loss = supervised_loss(model, hidden, targets) / n_targets
            with timed("backward"):
                loss.backward()
            flops += step_flops(model, collated)
        with timed("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip or torch.inf)
            optimizer.step()
            optimizer.zero_grad()
        return flops

    lines = []
    for stage in range(stage_at(0, c), last_stage(c) + 1):
        seconds.clear()
        with timed("problems"):  # of an epoch at which they have grown to full size
            examples = examples_of_epoch(s.epochs)
        with timed("tokens"):
            epoch_batches = batches(examples, s.batch_size, rng)
        if len(epoch_batches) <= WARM_UP:
            raise UserError(f"{len(examples)} training problems make {len(epoch_batches)} "
                            f"batches, but {WARM_UP + 1} are needed: lower --batch_size")
        per_epoch = {part: 1e3 * t / len(epoch_batches) for part, t in seconds.items()}

        model.train()
        for batch in epoch_batches[:WARM_UP]:
            step(batch, stage)
        seconds.clear()
        done = epoch_batches[WARM_UP:WARM_UP + STEPS]
        flops = sum(step(batch, stage) for batch in done)
        line = {part: 1e3 * seconds[part] / len(done) + per_epoch.get(part, 0) for part in PARTS}
        longest = max(count_targets([build(encode(example, enc), stage, c, marks)])
                      for example in valid)
        with timed("evaluation"), autocast:
            evaluate(model, valid, stage, c, enc, s.micro_batch, longest)
        steps_in_epoch = math.ceil((s.n_train if s.generated else len(examples)) / s.batch_size)
        line["evaluation"] = 1e3 * seconds["evaluation"] / steps_in_epoch
        speed = flops / (seconds["forward"] + seconds["backward"])
        lines.append({"stage": stage} | line | {
            "step": sum(line.values()), "steps of a run": 0, "GFLOP": flops / len(done) / 1e9,
            "GFLOP per s": speed / 1e9,
            "matmul's": matmul_flops(SimpleNamespace(device=device, dtype=s.dtype)) / 1e9})
    for epoch in range(s.epochs):
        for i in range(steps_in_epoch):
            stage = stage_at(epoch + i / steps_in_epoch, c)
            lines[stage - lines[0]["stage"]]["steps of a run"] += 1
    return lines


def main(argv=None):
    try:
        given = parse(argv, "-m analysis.parts", "Where the time of a run goes.")
        for name in UNUSED:
            if name in given:
                raise UserError(f"--{name} would change nothing: whole runs are measured, and "
                                "none is kept")
        lines = measure(complete(given, saved_settings(given.get("init", "scratch"))))
    except UserError as error:
        raise SystemExit(f"parts: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130)
    print()
    print_table(lines[0], [[f"{value:.0f}" if name in ("stage", "steps of a run") else
                            f"{value:.1f}" for name, value in line.items()] for line in lines])
    steps = [line["steps of a run"] for line in lines]
    minutes = sum(n * line["step"] for n, line in zip(steps, lines)) / 60e3
    teraflop = sum(n * line["GFLOP"] for n, line in zip(steps, lines)) / 1e3
    print(f"\na whole run: {sum(steps):.0f} steps, {minutes:.1f} min, {teraflop:.1f} TFLOP")


if __name__ == "__main__":
    main()
