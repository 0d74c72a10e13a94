"""The README against the code: line counts, commands, pictures."""
import re
import shlex

import pytest

import curriculum
from conftest import ROOT
from curriculum import METHODS
from harness.settings import complete, parse

README = (ROOT / "README.md").read_text()
TABLE = dict(re.findall(r"^\| `(\w+(?:\.py|/))` \| (\d+) \|", README, flags=re.M))


def test_the_table_of_files_lacks_a_file_or_miscounts_its_lines():
    def lines(paths):
        return sum(len(path.read_text().splitlines()) for path in paths)

    files = {path.name: lines([path]) for path in ROOT.glob("*.py")}
    wings = {f"{path.parent.name}/" for path in ROOT.glob("*/*.py")} - {"tests/"}
    files |= {wing: lines((ROOT / wing).glob("*.py")) for wing in wings}
    assert {name: int(lines) for name, lines in TABLE.items()} == files


def test_a_line_of_code_is_wider_than_100_columns():
    wide = [f"{path.name}:{number}" for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if len(line) > 100]
    assert not wide


def test_the_readmes_first_table_differs_from_the_whole_one():
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")]
             for line in README.splitlines() if line.startswith("| `")]
    whole = {tuple(line[:3]): line[5] + (line[6] and f" ± {line[6]}")
             for line in lines if len(line) == 11}
    first = {line[0]: line[2:6] for line in lines if len(line) == 8 and line[0] in METHODS}
    columns = [("prontoqa", "generated"), ("prosqa", "generated"),
               ("prontoqa", "balanced"), ("prosqa", "balanced")]
    assert first == {method: [whole.get((*column, method), "") for column in columns]
                     for method in METHODS}


COMMANDS = re.findall(r"^python train\.py (.*?)(?: {3,}#.*)?$", README, flags=re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_training_command_of_the_readme_is_refused(command):
    complete(parse(shlex.split(command)))


def test_the_readmes_curriculum_differs_from_the_codes():
    shown = re.findall(r"^stage (\d)   (Q .*?)(?: {6,}.*)?$", README, re.M)
    assert shown == re.findall(r"^    stage (\d)   (Q .*)$", curriculum.__doc__, re.M)


def test_the_readme_names_an_option_that_does_not_exist():
    from harness.settings import Settings
    others = "index question n_thoughts ckpt n no-reset_optimizer no-grow help out show " \
             "columns stages rounds nproc_per_node"
    known = set(Settings.__dataclass_fields__) | set(others.split())
    assert set(re.findall(r"--([a-zA-Z][\w-]*)", README)) <= known
