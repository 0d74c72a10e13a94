"""
The tasks, one file each: how its problems are drawn, guessed, and read from files.

A new task is a new file here, and its name in the line below. The file has to hold

    SIZES          {name: Size}, the options that say how large a generated problem is
    draw           (rng, **sizes) -> the skeleton of a problem, a tuple: a graph, say, or a story
    word           (rng, *skeleton) -> its record {"question", "steps", "answer"}, in random words
    SCRATCH        {setting: value} where this task differs from the first column of DEFAULTS in
                   harness/settings.py; at least max_latent_stage, the most steps of a problem (or
                   a function of the sizes)

and may hold

    PAPER          the same for the paper's recipe
    BALANCED       True if draw takes `balanced`, for problems whose answer no rule can guess
    GROWS          True if draw takes `growth`, from 0 for the easiest problems to 1 for all sizes
    OFFICIAL       {file name: (url, SHA-256 or None)} of the released files
    NO_OFFICIAL    a sentence that says what to do, as there are none
    guesses        question -> {rule: the answer it bets on, or None if it has no opinion}
"""
from importlib import import_module

TASKS = {name: import_module(f"tasks.{name}") for name in ("prontoqa", "prosqa", "gsm8k")}
SIZES = {}  # {name: (Size, [the tasks that have it]), ..}
for _task, _module in TASKS.items():
    for _name, _size in _module.SIZES.items():
        SIZES.setdefault(_name, (_size, []))[1].append(_task)


def tasks_with(name):
    """The tasks whose file has such a constant, and one that is not False."""
    return [task for task in TASKS if getattr(TASKS[task], name, False)]
