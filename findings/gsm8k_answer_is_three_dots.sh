#!/usr/bin/env bash
# Guess: the filter flexible-extract of lm-eval's GSM8k takes the last number of a text, however it
# is worded, and numbers of the same value are the same answer.
# Seen: with lm_eval 0.4.13 it takes the last run of two or more of the characters $0123456789., and
# digits only where there is no such run. So the answer in "The answer is 18 ..." is three dots,
# that in "18..." includes the dots, and a closing "$$" is an answer as well; all three count as
# wrong. What is taken is compared as text: 18.0 and $18.00 are not 18, though 1,000 is 1000. A
# model that writes cents, or trails off, scores less than it calculates.
# Fails if any of these verdicts changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.2.6" "sacrebleu==2.6.0" "pyyaml==6.0.3"
"$folder/venv/bin/pip" install --quiet --no-deps "lm_eval==0.4.13"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
metric, = task["metric_list"]
options = {name: metric[name] for name in ("regexes_to_ignore", "ignore_case",
                                           "ignore_punctuation")}


def verdicts(text, gold):
    """What the filters of the task take from a text, and whether its metric finds it right."""
    found = []
    for chain in task["filter_list"]:
        first = {name: value for name, value in chain["filter"][0].items() if name != "function"}
        (taken,), = RegexFilter(**first).apply([[text]], [{}])
        right = exact_match_hf_evaluate([taken], [f"Some steps.\n#### {gold}"], **options)
        found.append((taken, bool(right["exact_match"])))
    return found


print(f"lm_eval {version('lm_eval')}, task gsm8k {task['metadata']['version']}")
for text, gold, expected in (
        ("#### 18", "18", [True, True]),
        ("#### 1,000", "1000", [True, True]),
        ("The answer is $18.", "18", [False, True]),
        ("The answer is 18 ...", "18", [False, False]),
        ("The answer is 18...", "18", [False, False]),
        ("She makes 18 dollars, and so on ...", "18", [False, False]),
        ("$$9 \\times 2 = 18 $$", "18", [False, False]),
        ("#### 18.0", "18", [False, False]),
        ("She makes $18.00", "18", [False, False])):
    (strict, strict_right), (flexible, flexible_right) = verdicts(text, gold)
    print(f"{text!r:40}strict-match {strict!r:12}{'right' if strict_right else 'wrong'}   "
          f"flexible-extract {flexible!r:10}{'right' if flexible_right else 'wrong'}")
    assert [strict_right, flexible_right] == expected, (text, strict, flexible)
PYTHON
