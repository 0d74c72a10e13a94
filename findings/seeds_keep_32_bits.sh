#!/usr/bin/env bash
# Guess: torch.manual_seed takes 64 bits, as its documentation has it, so different seeds give
# different numbers, and a seed for each batch may be put together as (run << 32) + batch.
# Seen: with torch 2.13.0 the generator of the CPU uses the lower half only. Seeds s, s + 2**32, s +
# 2 * 2**32 .. all draw the same numbers, while initial_seed() tells them apart. Runs whose seeds
# differ in the upper half are one run, and their spread is zero. numpy and Python itself give
# different numbers for the same seeds.
# Fails if the upper half of a seed begins to count, or if numpy or Python drop it, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import random

import numpy
import torch


def of_torch(seed):
    torch.manual_seed(seed)
    assert torch.initial_seed() == seed  # it remembers all of it
    return torch.nn.Linear(2, 1).weight.flatten().tolist()


def of_a_generator(seed):
    return torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()


def of_numpy(seed):
    return numpy.random.default_rng(seed).random(2).tolist()


def of_python(seed):
    generator = random.Random(seed)
    return [generator.random(), generator.random()]


print(f"torch {torch.__version__}, numpy {numpy.__version__}")
alike = {}
for draw in (of_torch, of_a_generator, of_numpy, of_python):
    drawn = [draw((run << 32) + 7) for run in range(3)]
    alike[draw.__name__] = drawn[0] == drawn[1] == drawn[2]
    shown = "   ".join(" ".join(f"{x:+.4f}" for x in numbers) for numbers in drawn)
    print(f"{draw.__name__:16}run 0, 1, 2:   {shown}")
    assert draw(7) != draw(8)
assert alike == {"of_torch": True, "of_a_generator": True, "of_numpy": False,
                 "of_python": False}, alike
PYTHON
