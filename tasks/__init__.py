"""
The tasks, one file each: how its problems are drawn, guessed, and read from files.

A new task is a new file here, and its name in TASKS below. The file has to hold

    SIZES          {name: Size}, the options that say how large a generated problem is
    draw           (rng, **sizes) -> the skeleton of a problem, a tuple: a graph, say, or a story
    word           (rng, *skeleton) -> its record {"question", "steps", "answer"}, in random words
    SCRATCH        {setting: value} where training from scratch differs from harness/settings.py; at
                   least max_latent_stage, the most steps of a problem (or a function of the sizes)

and may hold

    PAPER          the same for the paper's recipe
    BALANCED       True if draw takes `balanced`, for problems that no known shortcut solves
    GROWS          True if draw takes `growth`, from 0 for the easiest problems to 1 for all sizes
    OFFICIAL       {file name: (URL, its SHA-256, or the SHA-1 of its git blob)} of released files
    NO_OFFICIAL    a sentence that says what to do, as there are none
    guesses        question -> {shortcut: the answer it bets on, or None if it has no opinion};
                   raises UserError for a question that is worded otherwise

A thought replaces a step most easily if the step is one token, as a word of letters alone is. Where
all steps of a problem are such words, they go on in one line. Any other step (a sentence, an
equation, even "7") has a line of its own, and a token for each word, digit and sign, and for the
line's end. See WORDS and lines_of in data.py.
"""
from importlib import import_module

TASKS = {name: import_module(f"tasks.{name}") for name in ("prontoqa", "prosqa", "gsm8k")}


def sizes_of(tasks):
    """{name: (Size, [the tasks that have it]), ..}. ValueError if that cannot be a size's name."""
    sizes = {}
    for task, module in tasks.items():
        for name, size in module.SIZES.items():
            first, owners = sizes.setdefault(name, (size, []))
            if size != first:
                raise ValueError(f"{task} and {owners[0]} have different sizes called {name}")
            if name in ("task", "n", "seed", "split", "epoch", "balanced", "grow", "growth", "rng"):
                raise ValueError(f"{task} has a size called {name}, as an argument of problems is")
            owners.append(task)
    return sizes


SIZES = sizes_of(TASKS)


def tasks_with(name):
    """The tasks whose file has such a constant, and one that is not False."""
    return [task for task in TASKS if getattr(TASKS[task], name, False)]
