#!/usr/bin/env bash
# Guess: torch.multinomial draws one uniform number for each token it samples, so tokens of
# probability zero change nothing. A vocabulary that is padded to a round size, 50,257 to 50,304,
# samples the same text from the same seed.
# Seen: with torch 2.13.0 the first token is the same, and nearly all later ones differ. To sample
# one token it draws an exponential number e for every entry of the vocabulary, and takes the
# largest p / e. So the size of the vocabulary decides where the generator stands afterwards. Two
# tokens from one call, with replacement, are drawn in another way, so that even the first differs.
# Samples of one seed cannot be compared between models that pad their vocabularies differently.
# Fails if padding leaves the samples alone, or if a token costs another number of draws.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch

V, padded = 50257, 50304
p = torch.randn(V, generator=torch.Generator().manual_seed(1)).mul(3).softmax(dim=-1)


def sample(p, n):
    torch.manual_seed(0)
    return [torch.multinomial(p, 1).item() for _ in range(n)]


print(f"torch {torch.__version__}")
plain, more = sample(p, 50), sample(torch.nn.functional.pad(p, (0, padded - V)), 50)
equal = sum(a == b for a, b in zip(plain, more))
print(f"{V} tokens:           {plain[:6]} ..\n{padded} (47 impossible): {more[:6]} ..\n"
      f"equal: {equal} of 50")
assert plain[0] == more[0] and equal < 5

torch.manual_seed(0)
torch.multinomial(p, 1)
state = torch.get_rng_state()
torch.manual_seed(0)
torch.empty(V).exponential_()
as_many = torch.equal(state, torch.get_rng_state())
print(f"one token costs as many draws as the vocabulary has entries: {as_many}")
assert as_many

torch.manual_seed(0)
two = torch.multinomial(p, 2, replacement=True).tolist()
print(f"two from one call: {two}, one by one: {plain[:2]}")
assert two[0] != plain[0]
PYTHON
