#!/usr/bin/env bash
# Guess: math-verify, which is made to judge answers by their value, reads "2 1/2" as two and a
# half.
# Seen: math-verify 0.9.0 reads "1 1/2", "2 1/2" and "10 1/2" all as 1, and "2 3/4" as 3, the
# numerator. So a right answer is judged wrong, and a wrong one right where the gold answer is 1. As
# mathematics, $2 1/2$, it is 3/2. Only LaTeX's fraction, $2\frac{1}{2}$, is two and a half. Models
# write such numbers where a problem asks for hours, cups or miles.
# Fails if any of these readings changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "math-verify==0.9.0" "latex2sympy2-extended==1.11.0" \
    "sympy==1.14.0" "antlr4-python3-runtime==4.13.2"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from math_verify import parse, verify

print(f"math-verify {version('math-verify')}")
for text, value in (("She needs 1 1/2 hours.", "1"), ("The answer is 2 1/2 cups.", "1"),
                    ("#### 10 1/2", "1"), ("They walk 2 3/4 miles.", "3"),
                    ("It is $2 1/2$.", "1.5"), ("It is $2\\frac{1}{2}$.", "2.5"),
                    ("It is 5/2.", "2.5"), ("2.5", "2.5")):
    read = parse(text)
    print(f"{text!r:32}is read as {str(read[0]):6}equals {value}: {verify(parse(value), read)}   "
          f"equals 2.5: {verify(parse('2.5'), read)}")
    assert verify(parse(value), read)
assert not verify(parse("2.5"), parse("The answer is 2 1/2 cups."))
assert verify(parse("1"), parse("The answer is 2 1/2 cups."))
PYTHON
