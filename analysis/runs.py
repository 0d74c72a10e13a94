"""Runs that are done: reading and keeping their logs, tables of many, and how far two differ."""
import json
import os
import subprocess
from contextlib import redirect_stdout
from datetime import date
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev, stdev
from textwrap import fill

from curriculum import METHODS
from harness.settings import label, read_settings
from harness.start import tested_problems
from tasks.common import checksum, shortcut_accuracy
from tasks.record import UserError, write_whole


def json_lines(path):
    """The dicts on the lines of a file; UserError if it holds anything else."""
    try:
        with open(path, encoding="utf-8") as file:
            return [dict(json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no log of train.py ({error})") from None


def append(path, head, rest):
    """Append a line to a file of many: head, the commit and the date of today, and the rest."""
    git = subprocess.run("git rev-parse --short HEAD", shell=True, cwd=os.path.dirname(__file__),
                         capture_output=True, text=True)
    line = head | {"commit": git.stdout.strip() or None, "date": str(date.today())} | rest
    before = Path(path).read_text("utf-8") if os.path.exists(path) else ""
    write_whole(path, "w", lambda file: file.write(before + json.dumps(line) + "\n"))


def in_folder(path, name):
    return os.path.join(path, name) if os.path.isdir(path) else path


def log_of(run):
    """What a line of results/runs.jsonl has of a run: its log, from its folder or metrics.jsonl."""
    header, *epochs = json_lines(in_folder(run, "metrics.jsonl")) or [{}]
    if not {"settings", "machine"} <= header.keys() or "name" in header:
        raise UserError(f"{run} is no log of a run (one of a file of many is {run}:NAME)")
    test = epochs.pop() if epochs and "test_accuracy" in epochs[-1] else None
    machine = f"{header['machine']}, torch {header['torch']}"
    return {"settings": header["settings"], "machine": machine, "threads": header["threads"],
            "epochs": epochs, "test": test}


def runs_of(paths, done=True):
    """[(name, Settings, lines on epochs, line of test results), ..] of runs, all of which must be
    done, unless done is False. A path is a run's folder; its metrics.jsonl under any name; or
    FILE.jsonl:NAME, a run of a file of many; NAME may hold wildcards, which match no slash."""
    lines = []
    for path in paths:
        file, many, name = path.partition(".jsonl:")
        found = ([line for line in json_lines(file + ".jsonl")
                  if fnmatchcase(line.get("name", ""), name)
                  and line["name"].count("/") == name.count("/")] if many
                 else [{"name": path} | log_of(path)])
        if not (found and all({"settings", "epochs", "test"} <= line.keys() for line in found)):
            raise UserError(f"{path} stands for no run")
        lines += found
    if stopped := [line["name"] for line in lines if done and line["test"] is None]:
        raise UserError(f"{', '.join(stopped)} has no test results: the run is not done")
    return [(line["name"], settings_of(line["settings"]), line["epochs"], line["test"])
            for line in lines]


def settings_of(saved):
    """The Settings of a log, also of a patch's, whose own settings stand in s.unknown and so in the
    label. So does its method, if that is not here; it then counts as coconut."""
    method = saved["method"]
    with redirect_stdout(None):  # no note on what is unknown: the label has it
        s = read_settings(saved | {"method": method if method in METHODS else "coconut"})
    if method not in METHODS:
        s.unknown["method"] = method
    return s


def keep(run, name, patch=None, out="results/runs.jsonl"):
    """Append a run's log to a file of many, where it is FILE.jsonl:NAME from then on."""
    if os.path.exists(out) and name in [line["name"] for line in json_lines(out)]:
        raise UserError(f"{out} has a run {name} already")
    append(out, {"name": name, "patch": patch}, log_of(run))
    print(f"appended to {out}: {name}")


TABLE = ["task", "data", "method", "seeds", "after each stage", "test", "sd", "best guess",
         "tokens", "ms", "minutes"]
COMPARISON = ["method", "seeds", "problems", "test", "difference", "95 % interval"]


def print_table(names, rows):
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(map(str, row))} |")


def grouped(paths):
    """{key: [(Settings, lines on epochs, test results), ..]} of runs that differ in the seed alone.
    key: task, whether not generated, the method's place in METHODS, data, label; so sorted keys are
    a table's order."""
    groups = {}
    for path, s, epochs, test in runs_of(paths):
        key = (s.task, s.data != "generated", list(METHODS).index(s.method), s.data, label(s))
        runs = groups.setdefault(key, [])
        if s.seed in (other.seed for other, *_ in runs):
            raise UserError(f"{path} is a second run of {label(s)} with seed {s.seed}")
        runs.append((s, epochs, test))
    return groups


def table(runs):
    """Print a row for all runs that differ in the seed alone, averaged.

    Accuracy is in %, after each stage on validation problems; sd is over the seeds. best guess: of
    the best shortcut on the same test problems, if they are generated and none was too long.
    tokens: written ones and thoughts, and ms: to write the answer, in batches, of a problem.
    minutes: of training."""
    print_table(TABLE, rows_of_table(runs))


def rows_of_table(paths):
    rows = []
    for (task, _, _, data, name), runs in sorted(grouped(paths).items()):
        _, histories, tests = zip(*runs)
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for epochs in histories]
        stages = [mean(run[stage] for run in by_stage if stage in run)
                  for stage in sorted(set().union(*by_stage))]
        right = [100 * test["test_accuracy"] for test in tests]
        guesses = [best_guess(s, test) for s, _, test in runs]
        tokens, seconds, training = (mean(test[key] for test in tests)
                                     for key in ("test_tokens", "test_seconds", "seconds"))
        rows.append([f"`{task}`", data, f"`{name}`", len(runs),
                     " ".join(f"{accuracy:.1f}" for accuracy in stages), f"{mean(right):.1f}",
                     f"{stdev(right):.1f}" if len(runs) > 1 else "",
                     "" if None in guesses else f"{100 * mean(guesses):.1f}",
                     f"{tokens:.1f}", f"{1e3 * seconds:.0f}", f"{training / 60:.0f}"])
    return rows


GUESSES = {}  # {checksum of test problems: shortcuts_on them}, as many runs share them


def shortcuts_on(s, test):
    """{shortcut: its accuracy} on the problems that a run was tested on. {} if the task has none,
    if the problems are those of a file, or if some were too long for the model."""
    asked = test.get("test_problems")  # None in old logs
    if asked not in GUESSES or asked is None:
        examples = tested_problems(s) if s.generated else []
        same = len(examples) == test["test_n"] and asked in (None, checksum(examples))
        GUESSES[asked] = shortcut_accuracy(s.task, examples) if same else {}
    return GUESSES[asked]


def best_guess(s, test):
    return max(shortcuts_on(s, test).values(), default=None)


def shortcuts(runs):
    """Print which share of their test problems runs, and the shortcuts of the task, get right."""
    print_table(["run", "by", "test"], [
        [name, by, f"{100 * accuracy:.1f}"] for name, s, _, test in runs_of(runs)
        for by, accuracy in [("model", test["test_accuracy"]), *shortcuts_on(s, test).items()]])


def compare(runs):
    """Print by how many points the accuracy of runs differs from that of the first path's runs.

    They are paired problem by problem: runs of equal seed, as they were asked the same problems.
    The interval tells what other problems would give; what other seeds give, sd in `table` tells.
    """
    print_table(COMPARISON, comparison(runs))


def comparison(paths):
    rows, first = [], None
    for (task, _, _, data, name), runs in grouped(paths).items():
        tests = {s.seed: test for s, _, test in runs}
        asked = {seed: test.get("test_problems") for seed, test in tests.items()}
        if first is None:
            first, asked_first = tests, asked
        if asked != asked_first or None in asked.values():
            raise UserError(f"{name} on {task}, {data}, with the seeds {sorted(tests)}, was not "
                            f"asked the problems of the first, with {sorted(first)}, or its log is "
                            "too old to tell: task, data, sizes, n_test, seeds must be the same")
        differences = paired_differences(tests, first)
        low, high = paired_interval(differences)
        right = mean(test["test_accuracy"] for test in tests.values())
        rows.append([f"`{name}`", len(tests), len(differences), f"{100 * right:.1f}",
                     f"{100 * mean(differences):+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"])
    rows[0][4:] = "", ""  # the first does not differ from itself
    return rows


def paired_differences(tests, first):
    """For each problem whether the runs got it right (1 or 0), less whether the first did. tests,
    first: {seed: line of test results}. A file has the same problems at every seed, which then
    count once, with the mean over the seeds."""
    found = {}
    for seed, test in tests.items():
        pairs = zip(test["test_right"], first[seed]["test_right"])
        found.setdefault(test["test_problems"], []).append([int(a) - int(b) for a, b in pairs])
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


def curve(runs, out="curve.png"):
    """Draw loss and accuracy over training; runs that differ in the seed alone share a color."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures are drawn with matplotlib: pip install matplotlib") from None
    figure, colors = Figure(figsize=(7, 6.4), dpi=130, layout="constrained"), {}
    above, below = figure.subplots(2, 1, sharex=True)
    for _, s, epochs, _ in runs_of(runs, done=False):
        name = f"{s.task}, {s.data}: {label(s)}"
        style = {"alpha": 0.6, "label": None if name in colors else fill(name, 60),
                 "color": colors.setdefault(name, f"C{len(colors)}")}
        steps = [line["step"] for line in epochs]
        above.plot(steps, [line["train_loss"] for line in epochs], ":", **style)
        above.plot(steps, [line["val_loss"] for line in epochs], **style)
        below.plot(steps, [100 * line["val_accuracy"] for line in epochs], **style)
    for last, line in pairwise(epochs):
        if line["stage"] != last["stage"]:
            above.axvline(last["step"], color="0.6", linestyle="--")
            below.axvline(last["step"], color="0.6", linestyle="--")
            below.text(last["step"], 2, f" {line['stage']}", color="0.4")
    above.set(yscale="log", ylabel="loss, nats a token (dotted: training)")
    below.set(xlabel="optimizer steps (dashed: a new stage)", ylabel="accuracy, %", ylim=(0, 103))
    above.legend(*below.get_legend_handles_labels(), loc="upper right")
    write_whole(out, "wb", figure.savefig)
    print(f"drew {out}")
