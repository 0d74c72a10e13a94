"""The pages of hacks/ against its patches and logs. hacks/check.sh tries the patches themselves."""
import json
import re
from statistics import mean

import pytest

from analysis.runs import paired_differences, paired_interval
from conftest import ROOT

pytestmark = pytest.mark.house
HACKS = ROOT / "hacks"
NAMES = sorted(path.stem for path in HACKS.glob("*.patch"))
PAGES = {path.stem: path.read_text() for path in HACKS.glob("*.md")}
RUNS = {run["name"]: run for run in map(json.loads, open(ROOT / "results" / "runs.jsonl"))}


def rows(text):
    """The rows of a page's tables that begin with code."""
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| `") or line.startswith("| [")]


def results(name):
    """{seed: line of test results} of the runs NAME-seed0, NAME-seed1 .."""
    return {run["settings"]["seed"]: run["test"] for key, run in RUNS.items()
            if re.fullmatch(re.escape(name) + r"-seed\d+", key)}


@pytest.mark.parametrize("name", NAMES)
def test_a_hack_is_short_and_has_its_page_its_test_and_its_row(name):
    patch = (HACKS / f"{name}.patch").read_text().splitlines()
    changed = sum(re.match(r"[+-](?![+-]{2} )", line) is not None for line in patch)
    assert changed <= 40
    assert (HACKS / f"{name}_check.py").exists() and "\npython train.py" in PAGES[name]
    told = {row[0]: row for row in rows(PAGES["README"])}
    assert told[f"[{name}]({name}.md)"][-1] == str(changed)


def test_every_log_of_a_hack_is_on_a_page():
    named = {cell for name in NAMES for row in rows(PAGES[name]) if len(row) == 9
             for cell in row[-2:]}
    logs = {name.rsplit("-", 1)[0] for name in RUNS if name.startswith("hacks/")}
    assert logs and logs <= named


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_their_logs(name):
    told = [row for row in rows(PAGES[name]) if len(row) == 9]
    assert told
    for _, _, seeds, test, difference, interval, minutes, log, first in told:
        ours, theirs = results(log), results(first)
        assert seeds == str(len(ours))
        assert all(ours[seed]["test_problems"] == theirs[seed]["test_problems"] for seed in ours)
        differences = paired_differences(ours, theirs)
        low, high = paired_interval(differences)
        assert test == f"{100 * mean(run['test_accuracy'] for run in ours.values()):.1f}"
        assert difference == f"{100 * mean(differences):+.1f}"
        assert interval == f"{100 * low:+.1f} to {100 * high:+.1f}"
        assert minutes == f"{mean(run['seconds'] for run in ours.values()) / 60:.1f}"
