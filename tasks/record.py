"""
The record of a problem, how it is scored, and what a task's file says of its sizes. Below them what
every program needs: how it tells a user's mistakes, what it does not read, how it writes a file.
"""
import errno
import os
import sys
from contextlib import contextmanager
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


@contextmanager
def told(program):
    """Around a program: a user's mistake ends it in a sentence, Ctrl-C in a word, a reader that has
    gone (`| head`) in silence. Characters that the terminal does not have become question marks."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        raise SystemExit(f"{program}: {error}")
    except KeyboardInterrupt:
        raise SystemExit(f"{program}: stopped")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        sys.stdout = open(os.devnull, "w")  # Python would print the rest at its end
        raise SystemExit(1 if error.errno == errno.EPIPE else f"{program}: {error}")


def refuse_pointer(path):
    """Raise UserError for what Git-LFS leaves in a file's place; OSError if there is none."""
    with open(path, "rb") as file:
        if file.read(30).startswith(b"version https://git-lfs"):
            raise UserError(f"{path} is a Git-LFS pointer: run `git lfs pull` where it comes from")


def write_whole(path, mode, write):
    """Let write(file) make a new version of a file. Whatever ends it on the way, a crash or a full
    disk, leaves the old version as it was. Raises UserError."""
    special = os.path.exists(path) and not os.path.isfile(path)  # a pipe, a terminal
    path = path if special else os.path.realpath(path)  # a link stays one
    part = path if special else f"{path}.{os.getpid()}.tmp"
    try:
        with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
            write(file)
            file.flush()
            if not special:
                os.fsync(file.fileno())
        if not special:
            os.replace(part, path)
    except BaseException as error:
        if os.path.exists(part) and not special:
            os.remove(part)
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        if not isinstance(reason, OSError):  # torch.save hides one behind an error of its own
            raise
        raise UserError(f"cannot write {path} ({reason}): what it held before is still there; once "
                        "the reason is gone, try again (a run of train.py by --resume)") from None
