"""The tutorial's blocks run in their order, and print what the page says."""
import re
import textwrap

import pytest

from conftest import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
# Machines round differently, and training makes more of it: shares, losses, times, nearest words.
SHARE, LOSS, TIME, NEAR = r"(\d+)%", r"loss (\d\.\d{3})\b", r"(\d+) ms", r"\w+ [01]\.\d\d\b"


def numbers(pattern, text):
    return [float(number) for number in re.findall(pattern, text)]


def without_numbers(text):
    return re.sub("|".join([SHARE, LOSS, TIME, NEAR]), "#", text)


@pytest.mark.house
def test_every_block_of_the_tutorial_prints_what_the_page_says(capsys):
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) == PAGE.count("```python") > 0
    names, everything = {}, ""
    for code, told in blocks:
        exec(code, names)
        shown = capsys.readouterr().out
        assert without_numbers(shown) == without_numbers(told)
        assert numbers(SHARE, shown) == pytest.approx(numbers(SHARE, told), abs=8)
        everything += shown
    losses, (slow, fast) = numbers(LOSS, everything), numbers(TIME, everything)
    assert losses[0] > 0.2 > 0.1 > losses[2]  # the end of stage 0, when all steps are written
    assert fast < slow
    assert (names["answers"] == names["right"]).float().mean() >= 0.95
    assert (names["swapped"] == names["right"]).float().mean() <= 0.05

    def answers(on_thought):
        hidden, _ = names["think"](*(names[name] for name in (
            "model", "ids", "is_thought", "is_real", "start")), on_thought=on_thought)
        return names["model"].lm_head(hidden[:, -2]).argmax(dim=1)

    right, partner, model = names["right"], names["partner"], names["model"]
    for swapped in (0, 1):  # exercise 2
        theirs = names["thoughts"][swapped][partner]
        given = answers(lambda k, thought: theirs if k == swapped else thought)
        assert (given == right[partner]).float().mean() >= 0.95
    worded = answers(lambda k, thought: model.embed(model.lm_head(thought).argmax(dim=1)))
    assert (worded == right).float().mean() >= 0.8  # exercise 3


@pytest.mark.house
def test_the_tutorial_quotes_think_as_it_is():
    quoted, = re.findall(r"```\n(for left, right in .*?)```", PAGE, flags=re.S)
    assert textwrap.indent(quoted, "    ") in (ROOT / "model.py").read_text()


@pytest.mark.house
def test_the_tutorial_takes_half_an_hour_to_read():
    assert len(PAGE.split()) <= 2300
