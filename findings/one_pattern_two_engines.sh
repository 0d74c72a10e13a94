#!/usr/bin/env bash
# Guess: a plain pattern such as `[^\W\d_]+`, letters, finds the same pieces in Python's re, by
# which one counts the words of a vocabulary, and in tiktoken, which then uses them.
# Seen: the two have different sets for \w. Python's includes superscripts, subscripts and
# fractions, which are not in \d, but no combining marks. That of tiktoken 0.14.0 follows Unicode's
# rules for regular expressions and has it the other way round. So "x²", "H₂O" and " ½" get into the
# vocabulary and never come out as a token; "café" with a separate accent, or a word of Hindi, is a
# piece that was never counted. Texts still decode to themselves. The cure is to count the pieces
# that tiktoken makes.
# Fails if the pieces agree on one of these, or disagree on plain words.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "tiktoken==0.14.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import re
import sys

import tiktoken

PATTERN = r" ?[^\W\d_]+|\d|\s|[^\s]"


def pieces_of_tiktoken(text):
    """Its pieces, seen from outside: with all parts of a text as tokens, each piece is one."""
    raw = text.encode()
    parts = {raw[i:j] for i in range(len(raw)) for j in range(i + 1, len(raw) + 1)}
    tokens = sorted(parts | {bytes([byte]) for byte in range(256)})
    enc = tiktoken.Encoding("parts", pat_str=PATTERN, special_tokens={}, mergeable_ranks={
        token: rank for rank, token in enumerate(tokens)})
    return [token.decode() for token in enc.decode_tokens_bytes(enc.encode_ordinary(text))]


print(f"Python {sys.version.split()[0]}, tiktoken {tiktoken.__version__}")
for text, alike in (("Tom has 12 naïve cats", True), ("x² is", False), ("H₂O", False),
                    ("add ½ cup", False), ("cafe\u0301", False), ("क्या", False)):
    of_re, of_tiktoken = re.findall(PATTERN, text), pieces_of_tiktoken(text)
    print(f"{text!r:24} re {of_re!r:44} tiktoken {of_tiktoken!r}")
    assert (of_re == of_tiktoken) is alike
PYTHON
