#!/usr/bin/env bash
# Guess: freezing a layer can only save work. Under torch.autocast its float32 weight is converted to
# bfloat16 once, as any other, and the copy serves every further call inside the block.
# Seen: with torch 2.13.0 only weights that require a gradient are kept in that form. A frozen one is
# converted anew at each call, whether gradients are on or off. A loop that calls the same layers
# many times inside one block (a decoder that writes token by token, a latent loop, recurrence by
# hand) pays for it each time: eight calls with one row each convert a trainable weight once, and a
# frozen one eight times. Results are equal to the bit, so only a profile shows it.
# Fails if a frozen weight is converted once, or a trainable one more often.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.profiler import ProfilerActivity, profile


def conversions(layer, x, with_gradients):
    """How often a tensor is converted in eight calls inside one block, and the last output."""
    with profile(activities=[ProfilerActivity.CPU]) as seen, \
            torch.set_grad_enabled(with_gradients), torch.autocast("cpu", torch.bfloat16):
        for _ in range(8):
            y = layer(x)
    return sum(event.count for event in seen.key_averages() if event.key == "aten::_to_copy"), y


print(f"torch {torch.__version__}")
torch.manual_seed(0)
layer, x = torch.nn.Linear(512, 512, bias=False), torch.randn(1, 512).bfloat16()
for with_gradients in (True, False):
    once, expected = conversions(layer.requires_grad_(True), x, with_gradients)
    again, frozen = conversions(layer.requires_grad_(False), x, with_gradients)
    print(f"gradients {'on' if with_gradients else 'off'}: the weight is converted {once} time(s) "
          f"in eight calls, frozen {again} times")
    assert (once, again) == (1, 8) and torch.equal(expected, frozen)
PYTHON
