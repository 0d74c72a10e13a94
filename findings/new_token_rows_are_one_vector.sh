#!/usr/bin/env bash
# Guess: resize_token_embeddings draws the rows of new tokens like the old ones, "from a
# multivariate normal distribution that has old embeddings' mean and covariance", as its
# documentation says. They are as long as the others, and each has its own direction.
# Seen: with transformers 5.24.0 the covariance is scaled by 1e-9, so all new rows are practically
# one vector, the mean of the old rows. Two of them are 30,000 times closer than two old rows. A
# model that is given <bot>, <eot> and <thought> in this way cannot tell them apart, and where the
# output layer is tied it gives all three the same probability. Only their gradients part them. With
# mean_resizing=False they are drawn apart, around zero.
# Fails if the new rows differ by more, or no longer lie at the mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6" "transformers==5.24.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers

transformers.logging.set_verbosity_error()


def resized(**options):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=2000, n_embd=64, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # as in trained models, the rows share a direction
        model.transformer.wte.weight.mul_(6).add_(0.05 * torch.randn(64))
    model.resize_token_embeddings(2003, **options)
    rows = model.transformer.wte.weight.detach()
    with torch.no_grad():
        logits = model(torch.arange(20)[None]).logits[0, :, 2000:]
    return rows[:2000], rows[2000:], logits


def apart(rows):
    return torch.pdist(rows).mean().item()


print(f"torch {torch.__version__}, transformers {transformers.__version__}")
for options in ({}, {"mean_resizing": False}):
    old, new, logits = resized(**options)
    print(f"{options}\n  distance of two old rows {apart(old[:200]):.5f}, of two new ones "
          f"{apart(new):.5f}, of a new row to the mean {(new - old.mean(0)).norm(dim=1).mean():.5f}"
          f"\n  logits of the three at one position "
          + " ".join(f"{x:.5f}" for x in logits[0].tolist()))
    if not options:
        assert apart(new) < 1e-3 * apart(old[:200])
        assert (new - old.mean(0)).norm(dim=1).max() < 1e-3 * old.norm(dim=1).mean()
        assert (logits.max(dim=1).values - logits.min(dim=1).values).max() < 1e-2
    else:
        assert apart(new) > 0.1 * apart(old[:200])
PYTHON
