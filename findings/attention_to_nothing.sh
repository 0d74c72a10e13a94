#!/usr/bin/env bash
# Guess: a query whose keys are all masked, as of padding on the left, gives NaN: it is the softmax
# of nothing but -inf.
# Seen: with torch 2.13.0 the same mask has three outcomes. scaled_dot_product_attention gives zeros
# and finite gradients, for a bool mask and for one of -inf. With the smallest float in the place of
# -inf it gives the mean of all values, of padding and of the future too. MultiheadAttention, built
# on the same function, gives NaN by default, as need_weights=True takes another path. Then every
# weight has a gradient of NaN, even from a loss on the other rows of the batch alone. With
# need_weights=False it gives zeros in training, and NaN again in eval mode without gradients. So a
# test in one mode says nothing about the other.
# Fails if any of these outcomes changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(0)
print(f"torch {torch.__version__}: what a query gets that may look at nothing")
x = torch.randn(1, 1, 4, 8, requires_grad=True)
allowed = torch.ones(4, 4, dtype=torch.bool).tril()
allowed[0] = False  # the first column is padding, and sees not even itself
shown, seen = [], []


def note(door, y, gradient):
    y = y.detach()
    found = ("NaN" if y.isnan().any() else "zeros" if y.abs().max() < 1e-6 else
             "the mean of all values" if torch.allclose(y, x[0, 0].mean(dim=0), atol=1e-6) else
             "something else")
    of_gradient = ("" if gradient is None else
                   f", gradient {'NaN' if gradient.isnan().any() else 'finite'}")
    print(f"{door:58}{found}{of_gradient}")
    seen.append(found + of_gradient)


for name, mask in (("bool", allowed), ("-inf", torch.zeros(4, 4).masked_fill(~allowed, -torch.inf)),
                   ("smallest float", torch.zeros(4, 4).masked_fill(
                       ~allowed, torch.finfo(torch.float32).min))):
    y = scaled_dot_product_attention(x, x, x, mask)
    note(f"scaled_dot_product_attention, mask of {name}", y[0, 0, 0],
         torch.autograd.grad(y.sum(), x)[0])

attention = nn.MultiheadAttention(8, 2, batch_first=True)  # its biases start at 0
rows = x[0].detach().expand(2, 4, 8)  # one row of a batch that has keys, and one that has none
padding = torch.tensor([[False] * 4, [True] * 4])
for need_weights in (True, False):
    y, _ = attention(rows, rows, rows, key_padding_mask=padding, need_weights=need_weights)
    gradient, = torch.autograd.grad(y[0].sum(), attention.in_proj_weight)  # of the other row
    note(f"MultiheadAttention, training, need_weights={need_weights}", y[1], gradient)
attention.eval()
with torch.no_grad():
    y, _ = attention(rows, rows, rows, key_padding_mask=padding, need_weights=False)
note("MultiheadAttention, eval and no_grad, need_weights=False", y[1], None)
assert seen == ["zeros, gradient finite", "zeros, gradient finite",
                "the mean of all values, gradient finite", "NaN, gradient NaN",
                "zeros, gradient finite", "NaN"], seen
PYTHON
