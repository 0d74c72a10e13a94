"""The record of a problem, how it is scored, what a task's file says of its sizes; UserError."""
from typing import NamedTuple


class Example(NamedTuple):
    """A problem, as text or, once tokenized, with a list of ids for each text."""
    question: str | list
    steps: list
    answer: str | list


class Size(NamedTuple):
    """One of the numbers, or words, that say how large a generated problem is."""
    official: int | str  # what the official problems have
    allowed: range | tuple
    text: str  # what is allowed, and why


STEPS = Size("sentences", ("sentences", "names"), "sentences or names")


def is_correct(written, answer):
    """Whether the text after the last "#" is the answer, commas aside. Official run.py:199, 469."""
    final = written.split("#")[-1].replace(",", "").strip()
    return "#" in written and final == answer.replace(",", "").strip()


class UserError(ValueError):
    """A user's mistake, told in a sentence that names the mend. Commands end with that sentence;
    every other exception is a bug and shows its traceback."""
