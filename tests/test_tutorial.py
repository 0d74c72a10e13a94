"""The tutorial's blocks run in their order, and print what the page says."""
import re

import pytest

from conftest import ROOT


@pytest.mark.house
def test_every_block_of_the_tutorial_prints_what_the_page_says(capsys):
    page = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, flags=re.S)
    assert len(blocks) == page.count("```python") > 0
    names = {}
    for code, told in blocks:
        exec(code, names)
        shown = capsys.readouterr().out
        # Machines round differently, and training makes more of it: what is not near 100 % differs.
        assert re.sub(r"\d+%", "%", shown) == re.sub(r"\d+%", "%", told)
        percentages = [[int(n) for n in re.findall(r"(\d+)%", text)] for text in (shown, told)]
        assert all(n == pytest.approx(t, abs=5 if t > 90 else 30) for n, t in zip(*percentages))
