#!/usr/bin/env bash
# Guess: a DataLoader without shuffling and without workers draws no random number. So to evaluate,
# in eval mode and without gradients, changes nothing in a training run.
# Seen: with torch 2.13.0 every iteration over a loader draws a number from torch's global
# generator, a seed for workers, even if there are none. So every evaluation changes the dropout
# masks, and the shuffling, that follow: of two runs with one seed, the one that is evaluated more
# often ends with other weights. A loader with a generator of its own leaves the global one alone.
# Fails if the loader stops drawing, or if its own generator no longer helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


def train(evaluations, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    valid = DataLoader(TensorDataset(data[:16]), batch_size=8, shuffle=False, **options)
    for _ in range(10):
        model.eval()
        with torch.no_grad():
            for _ in range(evaluations):
                for batch, in valid:
                    model(batch)
        model.train()
        loss = (model(data) - data).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item(), model[0].weight.detach()


def compare(what, **options):
    (loss, weights), (other_loss, other_weights) = train(1, **options), train(2, **options)
    equal = torch.equal(weights, other_weights)
    print(f"{what:30}evaluated once a step: loss {loss:.6f}, twice: {other_loss:.6f}, weights "
          f"{'equal' if equal else 'differ'}")
    return equal


print(f"torch {torch.__version__}")
assert compare("again the same run") is False
assert torch.equal(train(1)[1], train(1)[1])  # so it is no noise of the machine
assert compare("with a generator of its own", generator=torch.Generator())
PYTHON
