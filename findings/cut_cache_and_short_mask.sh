#!/usr/bin/env bash
# Guess: GPT-2 of transformers goes on from keys and values that were cut to a prefix, handed over as a
# list of pairs, and gives the states of one full pass; and a mask that covers only the new columns is
# refused. Code that feeds hidden states back is written like that, the official Coconut's too.
# Seen: up to 4.55 the cut cache works. 4.56 and 4.57 refuse a list. From 5.0 on a cache's items are no
# pairs any more, so the cut itself fails. The short mask raises in 4.46.2. In 4.55.4 and later it is
# taken without a word, and the states are others.
# Meaning: the official code runs on the version that it pins, 4.46.2, and not on transformers 5; a mask
# that forgets the cached columns is an error there, and a wrong number later.
# Fails if any of these outcomes changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip"
"$pip" install --quiet "torch==2.13.0" "numpy==2.2.6"
cd "$folder"
for version in 4.46.2 4.55.4 4.56.2 4.57.1 5.0.0 5.24.0; do
    "$pip" install --quiet "transformers==$version"
    "$folder/venv/bin/python" - "$version" <<'PYTHON'
import sys
import warnings

import torch
import transformers

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
version = sys.argv[1]
assert transformers.__version__ == version
torch.manual_seed(0)
config = transformers.GPT2Config(vocab_size=20, n_positions=32, n_embd=32, n_layer=2, n_head=2)
model = transformers.GPT2Model(config).eval()
x = torch.randn(1, 8, 32)


def outcome(cached_columns, mask_columns):
    """Whether columns 5 to 7, after a cache of the first 5, get the states of one full pass."""
    with torch.no_grad():
        whole = model(inputs_embeds=x).last_hidden_state
        try:
            cache = model(inputs_embeds=x[:, :6], use_cache=True).past_key_values
            cut = [(keys[:, :, :cached_columns], values[:, :, :cached_columns])
                   for keys, values in cache]
        except ValueError as error:
            return f"the cut fails: {error}"
        try:
            rest = model(inputs_embeds=x[:, 5:], past_key_values=cut,
                         attention_mask=torch.ones(1, mask_columns, dtype=torch.long),
                         position_ids=torch.arange(5, 8)[None]).last_hidden_state
        except Exception as error:
            return f"refused: {type(error).__name__} {str(error).splitlines()[0][:70]}"
    return "equal" if torch.allclose(rest, whole[:, 5:], atol=1e-5) else "other states"


def short_mask():
    """The same with a cache of the version's own kind, and a mask for the new columns alone."""
    with torch.no_grad():
        whole = model(inputs_embeds=x).last_hidden_state
        cache = model(inputs_embeds=x[:, :5], use_cache=True).past_key_values
        try:
            rest = model(inputs_embeds=x[:, 5:], past_key_values=cache,
                         attention_mask=torch.ones(1, 3, dtype=torch.long),
                         position_ids=torch.arange(5, 8)[None]).last_hidden_state
        except Exception as error:
            return f"refused: {type(error).__name__}"
    return "equal" if torch.allclose(rest, whole[:, 5:], atol=1e-5) else "other states"


cut, short = outcome(5, 8), short_mask()
print(f"transformers {version}: cut cache: {cut}; short mask: {short}")
major, minor = map(int, version.split(".")[:2])
wanted = "equal" if (major, minor) < (4, 56) else "refused" if major == 4 else "the cut fails"
assert cut.startswith(wanted)
assert short.startswith("refused" if (major, minor) < (4, 55) else "other states")
PYTHON
done
