"""Runs that are done: reading and keeping their logs, a table of many, and how far two differ."""
import json
import os
from contextlib import redirect_stdout
from datetime import date
from fnmatch import fnmatchcase
from itertools import pairwise
from statistics import mean, pstdev, stdev
from subprocess import run
from textwrap import fill

from curriculum import METHODS
from harness.settings import label, read_settings
from harness.start import tested_problems
from tasks.common import checksum, shortcut_accuracy
from tasks.record import UserError


def runs_of(paths):
    """[(name, Settings, lines on epochs, line of test results or None), ..] of runs. A path is a
    run's folder; its metrics.jsonl under any name; or FILE.jsonl:NAME, a run of a file of many,
    where wildcards in NAME, of which none stands for a slash, make it all runs that match."""
    found = []
    for path in paths:
        file, many, name = path.partition(".jsonl:")
        lines = ([line for line in json_lines(file + ".jsonl") if fnmatchcase(line["name"], name)
                  and line["name"].count("/") == name.count("/")] if many
                 else [line_of_log(path) | {"name": path}])
        if not lines:
            raise UserError(f"{file}.jsonl has no run {name}")
        for line in lines:
            saved, method = line["settings"], line["settings"].get("method")
            with redirect_stdout(None):  # no note on what is unknown here: the label has it
                s = read_settings(saved | ({} if method in METHODS else {"method": "coconut"}))
            if method not in METHODS:  # a patch's: it stands in the label, too
                s.unknown["method"] = method
            found.append((line["name"], s, line["epochs"], line["test"]))
    return found


def read_metrics(path):
    """(Settings, lines on epochs, line of test results or None) of one run."""
    (_, *one), *others = runs_of([path])
    if others:
        raise UserError(f"{path} stands for {1 + len(others)} runs, but one is asked for")
    return tuple(one)


def line_of_log(path):
    """What a file of many runs has of one, but for its name, from its folder or metrics.jsonl."""
    header, *epochs = json_lines(in_folder(path, "metrics.jsonl"))
    if not isinstance(header.get("settings"), dict) or "name" in header:
        raise UserError(f"{path} is no log of a run (one of a file of many is {path}:NAME)")
    test = epochs.pop() if epochs and "test_accuracy" in epochs[-1] else None
    return {"settings": header["settings"], "machine": f"{header.get('machine')}, torch "
            f"{header.get('torch')}", "threads": header.get("threads"), "epochs": epochs,
            "test": test}


def json_lines(path):
    """The dicts on the lines of a file; UserError if it holds anything else."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [dict(json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no log of train.py ({error})") from None
    return lines or [{}]


def in_folder(path, name):
    return os.path.join(path, name) if os.path.isdir(path) else path


def commit_and_date():
    git = run("git rev-parse --short HEAD", shell=True, cwd=os.path.dirname(__file__),
              capture_output=True, text=True)
    return {"commit": git.stdout.strip() or None, "date": str(date.today())}


def append(path, line):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def print_table(names, rows):
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(map(str, row))} |")


def grouped(paths):
    """{(task, whether not generated, number of the method, data, label): [(Settings, lines on
    epochs, line of test results), ..]}: the runs of a group differ in the seed alone, and sorted
    keys make an order."""
    groups = {}
    for path, s, epochs, result in runs_of(paths):
        if result is None:
            raise UserError(f"{path} has no test results: the run is not done")
        key = (s.task, s.data != "generated", list(METHODS).index(s.method), s.data, label(s))
        runs = groups.setdefault(key, [])
        if s.seed in (other.seed for other, *_ in runs):
            raise UserError(f"{path} is a second run of {label(s)} with seed {s.seed}")
        runs.append((s, epochs, result))
    return groups


TABLE = ["task", "data", "method", "seeds", "after each stage", "test", "sd", "best guess",
         "tokens", "ms", "minutes"]


def rows_of_table(paths):
    """A row of TABLE for all runs that differ in the seed alone, averaged; sd is over them.

    Accuracy is in %, after each stage on validation problems. best guess: of the best shortcut on
    the same test problems, if they are generated and none was too long. tokens: written ones and
    thoughts, and ms: to write the answer, in batches, of a problem. minutes: of training."""
    rows = []
    for (task, _, _, data, name), runs in sorted(grouped(paths).items()):
        _, histories, results = zip(*runs)
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for epochs in histories]
        stages = " ".join(f"{mean(run[stage] for run in by_stage if stage in run):.1f}"
                          for stage in sorted(set().union(*by_stage)))
        tests = [100 * result["test_accuracy"] for result in results]
        sd = f"{stdev(tests):.1f}" if len(tests) > 1 else ""
        known = all(s.generated and s.n_test == result["test_n"] for s, _, result in runs)
        guesses = [best_guess(s, result) for s, _, result in runs] if known else [None]
        guess = "" if None in guesses else f"{100 * mean(guesses):.1f}"
        tokens, seconds, minutes = (mean(result[key] for result in results) / unit for key, unit in
                                    [("test_tokens", 1), ("test_seconds", 1e-3), ("seconds", 60)])
        rows.append([f"`{task}`", data, f"`{name}`", len(runs), stages, f"{mean(tests):.1f}",
                     sd, guess, f"{tokens:.1f}", f"{seconds:.0f}", f"{minutes:.0f}"])
    return rows


COMPARISON = ["method", "seeds", "problems", "test", "difference", "95 % interval"]


def comparison(paths):
    """A row of COMPARISON for all runs that differ in the seed alone: their accuracy in %, and by
    how many points it differs from that of the first path's runs, with a paired_interval.

    Runs of equal seed are paired, as they were asked the same problems. The interval tells what
    other problems would give; what other seeds give, the sd of `table` tells."""
    groups, rows = grouped(paths), []
    by_seed = [{s.seed: result for s, _, result in runs} for runs in groups.values()]
    asked = [{seed: result.get("test_problems") for seed, result in seeds.items()}
             for seeds in by_seed]
    first = by_seed[0]
    for (task, _, _, data, name), seeds, problems in zip(groups, by_seed, asked):
        if problems != asked[0] or None in problems.values():
            raise UserError(f"{name} on {task}, {data}, with the seeds {sorted(seeds)}, was not "
                            f"asked the problems of the first, with {sorted(first)}, or its log is "
                            "too old to tell: task, data, sizes, n_test, seeds must be the same")
        differences = paired_differences(seeds, first)
        low, high = paired_interval(differences)
        told = [f"{100 * mean(differences):+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
        test = mean(result["test_accuracy"] for result in seeds.values())
        rows.append([f"`{name}`", len(seeds), len(differences), f"{100 * test:.1f}",
                     *(told if seeds is not first else ["", ""])])
    return rows


def paired_differences(seeds, first):
    """For each problem whether the runs got it right (1 or 0), less whether the first did. seeds,
    first: {seed: line of test results}. A file has the same problems at every seed, which then
    count once, with the mean over the seeds."""
    found = {}
    for seed, result in seeds.items():
        pairs = zip(result["test_right"], first[seed]["test_right"])
        found.setdefault(result["test_problems"], []).append([int(a) - int(b) for a, b in pairs])
    return [mean(same) for lists in found.values() for same in zip(*lists)]


def paired_interval(differences):
    """The 95 % confidence interval of the mean of paired differences: the normal one, after two
    problems more, of which either side alone gets one right. Without them it would be empty where
    both sides agree. Source: Bonett and Price 2012, J. Educ. Behav. Stat. 37(4)."""
    more = [*differences, 1, -1]
    half = 1.96 * pstdev(more) / len(more) ** 0.5
    return mean(more) - half, mean(more) + half


def interval(right, n):
    """The 95 % confidence interval of a share, by Wilson's formula."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)  # rounding may lead outside


GUESSES = {}  # {what decides on the test problems: their best guess}, as many runs share them


def best_guess(s, result):
    """The accuracy of the rule that has most of a run's test problems; None if no rule applies."""
    asked = (s.task, s.data, str(s.size()), s.seed, s.n_test, result["test_n"])
    if asked not in GUESSES:
        accuracies = shortcut_accuracy(s.task, problems_of_log(s, result))
        GUESSES[asked] = max(accuracies.values(), default=None)
    return GUESSES[asked]


def problems_of_log(s, result):
    """The Examples that a run was tested on. UserError if they are not known any more."""
    test = tested_problems(s)
    known = result["test_n"], result.get("test_problems", checksum(test))
    if known != (len(test), checksum(test)):
        raise UserError(f"{label(s)} with seed {s.seed} was tested on other problems than the "
                        f"{len(test)} of {s.data}: a file has changed, or some were too long for "
                        "the model, and then `accuracy` has the shortcuts on just those")
    return test


def curve(paths):
    """A matplotlib Figure of loss and accuracy over steps, a color for runs that differ in the seed
    alone. Dashed: where the stages of the last run begin."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures are drawn with matplotlib: pip install matplotlib") from None
    figure, colors = Figure(figsize=(7, 6.4), dpi=130, layout="constrained"), {}
    above, below = figure.subplots(2, 1, sharex=True)
    for _, s, epochs, _ in runs_of(paths):
        name = f"{s.task}, {s.data}: {label(s)}"
        style = {"alpha": 0.6, "label": None if name in colors else fill(name, 60),
                 "color": colors.setdefault(name, f"C{len(colors)}")}
        steps = [line["step"] for line in epochs]
        above.plot(steps, [line["val_loss"] for line in epochs], **style)
        below.plot(steps, [100 * line["val_accuracy"] for line in epochs], **style)
    for last, line in pairwise(epochs):
        if line["stage"] != last["stage"]:
            above.axvline(last["step"], color="0.6", linestyle="--")
            below.axvline(last["step"], color="0.6", linestyle="--")
            below.text(last["step"], 2, f" {line['stage']}", color="0.4")
    above.set(yscale="log", ylabel="validation loss, nats a token")
    below.set(xlabel="optimizer steps (dashed: a new stage)", ylabel="accuracy, %", ylim=(0, 103))
    below.legend(loc="lower right")
    return figure
