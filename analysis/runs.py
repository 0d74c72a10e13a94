"""Runs that are done: reading their logs and checkpoints, and a table of many."""
import json
import os
from statistics import mean, pstdev, stdev

from curriculum import METHODS
from harness.settings import label, read_settings
from harness.start import tested_problems
from tasks.common import checksum, shortcut_accuracy
from tasks.record import UserError


def read_metrics(path):
    """(Settings, lines on epochs, line of test results or None) of a run; UserError if none."""
    if os.path.isdir(path):
        path = os.path.join(path, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            header, *lines = map(json.loads, file)
        s = read_settings(header["settings"])
        result = lines.pop() if lines and "test_accuracy" in lines[-1] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no metrics.jsonl of train.py ({error})") from None
    return s, lines, result


def checkpoint_of(run):
    return os.path.join(run, "ckpt.pt") if os.path.isdir(run) else run


def print_table(names, rows):
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(map(str, row))} |")


def grouped(paths):
    """{(task, whether not generated, number of the method, data, label): [what read_metrics
    returns, ..]}: the runs of a group differ in the seed alone, and sorted keys make an order."""
    groups = {}
    for path in paths:
        s, epochs, result = read_metrics(path)
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

    Accuracy is in %, after each stage on validation problems. best guess: that of the best rule on
    the same test problems, if they are generated and none was too long; tokens: written ones and
    thoughts a problem; ms: to write the answer to a problem, in batches; minutes: of training."""
    rows = []
    for (task, _, _, data, name), runs in sorted(grouped(paths).items()):
        _, histories, results = zip(*runs)
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for epochs in histories]
        stages = " ".join(f"{mean(run[stage] for run in by_stage if stage in run):.1f}"
                          for stage in sorted(set().union(*by_stage)))
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


COMPARISON = ["method", "seeds", "problems", "test", "difference", "95 % interval"]


def comparison(paths):
    """A row of COMPARISON for all runs that differ in the seed alone: their accuracy in %, and by
    how many points it differs from that of the first path's runs, with a paired_interval.

    Runs of equal seed are paired, as they were asked the same problems. The interval tells what
    other problems would give; what other seeds give, the sd of `table` tells."""
    groups = {key: {s.seed: result for s, _, result in runs}
              for key, runs in grouped(paths).items()}
    first, rows = next(iter(groups.values())), []
    for (task, _, _, data, name), seeds in groups.items():
        for seed, result in seeds.items():
            if "test_right" not in result:
                raise UserError(f"the log of {name} with seed {seed} does not say which test "
                                "problems the model got right: it is older than this comparison")
        if seeds.keys() != first.keys():
            raise UserError(f"{name} has the seeds {sorted(seeds)}, the first {sorted(first)}: "
                            "only runs of equal seed have the same problems")
        for seed, result in seeds.items():
            if result["test_problems"] != first[seed]["test_problems"]:
                raise UserError(f"{name} on {task}, {data}, with seed {seed} was tested on other "
                                "problems than the first: task, data, their size and number must "
                                "be the same")
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


GUESSES = {}  # {what decides on the test problems: their best guess}, as many runs share them


def best_guess(s, result):
    """The accuracy of the rule that has most of a run's test problems."""
    asked = (s.task, s.data, str(s.size()), s.seed, s.n_test, result["test_n"])
    if asked not in GUESSES:
        accuracies = shortcut_accuracy(s.task, problems_of_log(s, result))
        GUESSES[asked] = max(accuracies.values(), default=0.0)
    return GUESSES[asked]


def problems_of_log(s, result):
    """The Examples that a run was tested on. UserError if some were too long for it, as a log does
    not tell which, or if a file holds others by now."""
    test = tested_problems(s)
    if len(test) != result["test_n"]:
        raise UserError(f"the run of {s.method} on {s.task} with seed {s.seed} was tested on "
                        f"{result['test_n']} of {len(test)} problems; `accuracy` compares it with "
                        "the rules on just those, by its checkpoint")
    if result.get("test_problems", checksum(test)) != checksum(test):
        raise UserError(f"the run of {s.method} on {s.task} with seed {s.seed} was tested on "
                        f"other problems than {s.data} has now")
    return test
