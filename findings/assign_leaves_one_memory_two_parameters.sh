#!/usr/bin/env bash
# Guess: load_state_dict(.., assign=True) either keeps a tied embedding tied, or leaves two matrices
# that drift apart.
# Seen: with torch 2.13.0 it does neither. The file of a tied model holds two names for one storage,
# and torch.load keeps that, so the loaded model has two Parameters in the same memory. Nothing
# looks wrong: the two are equal, and stay equal in training. But the gradient is in two parts, each
# with an AdamW state of its own, so the matrix takes two steps where it should take one. Here it
# moves exactly twice as far. The norm of the gradient and the number of parameters are wrong, too,
# and once the model changes its dtype or device, the two matrices part for good. Without assign the
# tie holds.
# Cause: assign makes a Parameter of each tensor in the file; only copying into the old one respects
# the tie.
# Fails if the tie is kept, if the memory is not shared, or if the step is no longer doubled.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(50, 8)
        self.lm_head = nn.Linear(8, 50, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids):
        return self.lm_head(self.wte(ids))


torch.manual_seed(0)
torch.save(Tied().state_dict(), "tied.pt")
ids = torch.arange(50)
moved = {}
print(f"torch {torch.__version__}")
for assign in (False, True):
    model = Tied()
    model.load_state_dict(torch.load("tied.pt"), assign=assign)
    one = model.lm_head.weight is model.wte.weight
    same_memory = model.lm_head.weight.data_ptr() == model.wte.weight.data_ptr()
    before = model.wte.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0)
    loss = nn.functional.cross_entropy(model(ids), ids.roll(1))
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    optimizer.step()
    moved[assign] = (model.wte.weight - before).abs().median().item()
    print(f"assign={assign!s:6} one Parameter: {one!s:6} one memory: {same_memory!s:5}  "
          f"parameters: {sum(p.numel() for p in model.parameters())}  norm of the gradient: "
          f"{norm:.4f}  a weight moves by {moved[assign]:.4f}")
    assert one is not assign and same_memory
    assert torch.equal(model.wte.weight, model.lm_head.weight)
    model.double()
    parted = model.lm_head.weight.data_ptr() != model.wte.weight.data_ptr()
    print(f"              after .double() the matrices are {'two' if parted else 'one'}")
    assert parted is assign
assert 1.5 < moved[True] / moved[False] < 2.5, moved
PYTHON
