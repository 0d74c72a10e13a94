#!/usr/bin/env bash
# Guess: to make an optimizer for one number costs nothing.
# Seen: with torch 2.13.0 the first optimizer of a process imports torch._dynamo, the front end of
# torch.compile, though nothing is compiled: hundreds of modules, and seconds on a slow machine. The
# second optimizer takes less than a millisecond. So a program that trains for a minute, or a test that
# takes one step, begins with a pause that no profile of its steps shows.
# Cause: add_param_group is wrapped by torch._compile._disable_dynamo, which imports it when called.
# Fails if the import, or its share of the time, is gone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch

number = torch.nn.Parameter(torch.zeros(1))
seconds, modules = [], []
assert "torch._dynamo" not in sys.modules
for _ in range(2):
    before, began = len(sys.modules), time.perf_counter()
    torch.optim.SGD([number], lr=0.1)
    seconds.append(time.perf_counter() - began)
    modules.append(len(sys.modules) - before)
print(f"torch {torch.__version__}: the first SGD takes {seconds[0]:.2f} s and imports {modules[0]} "
      f"modules, the second {seconds[1]:.5f} s and {modules[1]}")
assert "torch._dynamo" in sys.modules
assert modules[0] > 300 and modules[1] == 0
assert seconds[0] > 100 * seconds[1]
PYTHON
