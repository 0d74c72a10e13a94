"""Runs that are done: reading their logs and checkpoints, and a table of many."""
import json
import os
from statistics import mean, stdev

from curriculum import METHODS
from harness.settings import label, read_settings
from harness.start import tested_problems
from tasks.common import shortcut_accuracy


def read_metrics(path):
    """(Settings, lines on epochs, line of test results or None) of a run; ValueError if none."""
    if os.path.isdir(path):
        path = os.path.join(path, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            header, *lines = map(json.loads, file)
        s = read_settings(header["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no metrics.jsonl of train.py ({error})") from None
    result = lines.pop() if lines and "test_accuracy" in lines[-1] else None
    return s, lines, result


def checkpoint_of(run):
    return os.path.join(run, "ckpt.pt") if os.path.isdir(run) else run


def print_table(names, rows):
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(map(str, row))} |")


def grouped(paths):
    """[((task, whether not generated, number of the method, data, label), [what read_metrics
    returns, ..]), ..] in this order: the runs of a group differ in the seed alone."""
    groups = {}
    for path in paths:
        s, epochs, result = read_metrics(path)
        if result is None:
            raise ValueError(f"{path} has no test results: the run is not done")
        key = (s.task, s.data != "generated", list(METHODS).index(s.method), s.data, label(s))
        groups.setdefault(key, []).append((s, epochs, result))
    return sorted(groups.items())


TABLE = ["task", "data", "method", "seeds", "after each stage", "test", "sd", "best guess",
         "tokens", "ms", "minutes"]


def rows_of_table(paths):
    """A row of TABLE for all runs that differ in the seed alone, averaged; sd is over them.

    Accuracy is in %, after each stage on validation problems. best guess: that of the best rule on
    the same test problems, if they are generated and none was too long; tokens: written ones and
    thoughts a problem; ms: to write the answer to a problem, in batches; minutes: of training."""
    rows = []
    for (task, _, _, data, name), runs in grouped(paths):
        _, histories, results = zip(*runs)
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for epochs in histories]
        stages = " ".join(f"{mean(run[stage] for run in by_stage):.1f}" for stage in by_stage[0])
        tests = [100 * result["test_accuracy"] for result in results]
        spread = f"{stdev(tests):.1f}" if len(tests) > 1 else ""
        known = all(s.generated and s.n_test == result["test_n"] for s, _, result in runs)
        guess = f"{100 * mean(best_guess(s, r) for s, _, r in runs):.1f}" if known else ""
        tokens, milliseconds, minutes = (
            scale * mean(result[key] for result in results) for key, scale in
            [("test_tokens", 1), ("test_seconds", 1000), ("seconds", 1 / 60)])
        rows.append([f"`{task}`", data, f"`{name}`", len(runs), stages, f"{mean(tests):.1f}",
                     spread, guess, f"{tokens:.1f}", f"{milliseconds:.0f}", f"{minutes:.0f}"])
    return rows


def best_guess(s, result):
    """The accuracy of the rule that has most of a run's test problems."""
    return max(shortcut_accuracy(s.task, problems_of_log(s, result)).values(), default=0.0)


def problems_of_log(s, result):
    """The Examples that a run was tested on. ValueError if some were too long for it, as a log does
    not tell which."""
    test = tested_problems(s)
    if len(test) != result["test_n"]:
        raise ValueError(f"the run of {s.method} on {s.task} with seed {s.seed} was tested on "
                         f"{result['test_n']} of {len(test)} problems; `accuracy` compares it with "
                         "the rules on just those, by its checkpoint")
    return test
