"""The README against the code: line counts, commands, pictures."""
import re
import shlex

import pytest

import curriculum
from conftest import ROOT
from settings import complete, parse

README = (ROOT / "README.md").read_text()
TABLE = dict(re.findall(r"^\| `(\w+\.py)` \| (\d+) \|", README, flags=re.M))


def test_the_table_of_files_has_every_file_and_its_true_number_of_lines():
    files = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob("*.py")}
    assert {name: int(lines) for name, lines in TABLE.items()} == files


def test_no_line_of_code_is_wider_than_100_columns():
    wide = [f"{path.name}:{number}" for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py")]
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if len(line) > 100]
    assert not wide


COMMANDS = re.findall(r"^python train\.py (.*?)(?: {3,}#.*)?$", README, flags=re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_is_accepted(command):
    complete(parse(shlex.split(command)))


def test_the_curriculum_picture_is_the_one_that_the_code_is_held_to():
    shown = re.findall(r"^stage (\d)   (Q .*?)(?: {6,}.*)?$", README, re.M)
    assert shown == re.findall(r"^    stage (\d)   (Q .*)$", curriculum.__doc__, re.M)


def test_every_option_that_the_readme_names_exists():
    from settings import Settings
    known = set(Settings.__dataclass_fields__) | {"index", "question", "n_thoughts", "ckpt", "n",
                                                  "no-reset_optimizer", "help", "max_steps"}
    assert set(re.findall(r"--([a-zA-Z][\w-]*)", README)) <= known
