"""
Look at runs that are done: how they learned, and what their accuracy is worth.

    python analyze.py curve results/*.jsonl      loss and accuracy over training, as a picture
    python analyze.py table results/*.jsonl      accuracy, tokens and time of runs, over seeds
    python analyze.py slim RUN                   a copy of its checkpoint, small enough to give away
    python analyze.py shortcuts RUN              what guessing gets on the run's own test problems
    python analyze.py accuracy RUN --data FILE   accuracy on problems from somewhere else

A RUN is a folder that train.py has written, or its metrics.jsonl under any name, or for `slim` and
`accuracy` its checkpoint. Only `curve` needs matplotlib.
"""
import argparse
import json
import os
import re
from statistics import mean, stdev

import torch

from curriculum import METHODS
from data import Example, is_correct, load_splits, read_examples
from evaluate import written_answers
from runs import load_run, pick_device
from settings import Settings
from shortcuts import points, shortcut_accuracy


def read_metrics(path):
    """(Settings, lines on epochs, line of test results or None) of a run; ValueError if none."""
    if os.path.isdir(path):
        path = os.path.join(path, "metrics.jsonl")
    try:
        with open(path, encoding="utf-8") as file:
            header, *lines = map(json.loads, file)
        s = Settings(**header["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no metrics.jsonl of train.py ({error})") from None
    result = lines.pop() if lines and "test_accuracy" in lines[-1] else None
    return s, lines, result


def checkpoint_of(run):
    return os.path.join(run, "ckpt.pt") if os.path.isdir(run) else run


# --------------------------------------------------------------------------------------------------
# curve

def curve(args):
    """Draw training and validation loss, and accuracy, over steps: a column of panels a task."""
    runs = [read_metrics(path)[:2] for path in args.runs]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("curve draws with matplotlib: pip install matplotlib") from None
    tasks = sorted({s.task for s, _ in runs})
    colors = dict(zip(sorted({s.method for s, _ in runs}, key=list(METHODS).index),
                      ["C0", "C1", "C2", "C3", "C4", "C5", "C8", "C9"]))
    figure = Figure(figsize=(1 + 4.2 * len(tasks), 5.6), layout="constrained")
    panels = figure.subplots(2, len(tasks), squeeze=False, sharex="col", sharey="row")
    for task, (above, below) in zip(tasks, panels.T):
        labelled = set()
        for s, epochs in runs:
            if s.task != task or not epochs:
                continue
            steps = [line["step"] for line in epochs]
            style = {"color": colors[s.method], "linewidth": 1, "alpha": 0.8}
            above.plot(steps, [line["train_loss"] for line in epochs], linestyle=":", **style)
            above.plot(steps, [line["val_loss"] for line in epochs], **style)
            below.plot(steps, [100 * line["val_accuracy"] for line in epochs], **style,
                       label=s.method if s.method not in labelled else None)
            labelled.add(s.method)
        mark_stages(above, below, [epochs for s, epochs in runs if s.task == task])
        above.set(title=task, yscale="log")
        below.set(xlabel="optimizer steps", ylim=(0, 103))
        below.legend(loc="lower right", fontsize="small")
    panels[0, 0].set_ylabel("loss, nats a supervised token\n(dotted: in training)")
    panels[1, 0].set_ylabel("accuracy on validation problems, %")
    figure.savefig(args.out, dpi=110)
    print(f"drew {len(runs)} runs to {args.out}")


def mark_stages(above, below, runs):
    """A dashed line where the first run that has stages enters one, with the stage's number."""
    starts = []  # of each run: [(step, stage), ..]
    for epochs in runs:
        before = [{"step": 0, "stage": None}, *epochs]
        starts.append([(last["step"], line["stage"]) for last, line in zip(before, epochs)
                       if line["stage"] != last["stage"]])
    for step, stage in max(starts, key=len, default=[]):
        for panel in (above, below):
            panel.axvline(step, color="gray", linewidth=0.7, linestyle="--")
        above.annotate(f"stage {stage}" if stage == 0 else str(stage), (step, 1), (3, -9),
                       xycoords=("data", "axes fraction"), textcoords="offset points",
                       fontsize="small", color="gray")


# --------------------------------------------------------------------------------------------------
# table

def table(args):
    """Print a row for all runs of a task, data and method; seeds are averaged, sd is over them.

    Accuracy is in %, after each stage on validation problems. tokens: written ones and thoughts a
    problem; ms: to write the answer to a problem, in batches; minutes: of the whole training.
    """
    groups = {}
    for path in args.runs:
        s, epochs, result = read_metrics(path)
        if result is None:
            raise ValueError(f"{path} has no test results: the run is not done")
        key = (s.task, s.data, list(METHODS).index(s.method))
        groups.setdefault(key, []).append((s, epochs, result))
    print("| task | data | method | seeds | after each stage | test | sd | tokens | ms | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for _, runs in sorted(groups.items()):
        s = runs[0][0]
        tests = [100 * result["test_accuracy"] for _, _, result in runs]
        tokens, milliseconds, minutes = (
            scale * mean(result[name] for _, _, result in runs) for name, scale in
            [("test_tokens", 1), ("test_seconds", 1000), ("seconds", 1 / 60)])
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for _, epochs, _ in runs]
        stages = " ".join(f"{mean(run[stage] for run in by_stage):.1f}" for stage in by_stage[0])
        print(f"| `{s.task}` | {s.data} | `{s.method}` | {len(runs)} | {stages} "
              f"| {mean(tests):.1f} | {f'{stdev(tests):.1f}' if len(tests) > 1 else ''} "
              f"| {tokens:.1f} | {milliseconds:.0f} | {minutes:.0f} |")


# --------------------------------------------------------------------------------------------------
# slim

def slim(args):
    """Write a run's checkpoint anew with weights in float16 and without the optimizer: a sixth."""
    ckpt = load_run(checkpoint_of(args.run))[0]
    ckpt["model"] = {name: tensor.half() for name, tensor in ckpt["model"].items()}
    ckpt["model"]["lm_head.weight"] = ckpt["model"]["wte.weight"]  # one tensor, stored once
    del ckpt["optimizer"]
    torch.save(ckpt, args.out)
    print(f"wrote {os.path.getsize(args.out) / 1e6:.1f} MB to {args.out}")


# --------------------------------------------------------------------------------------------------
# What an accuracy is worth

def shortcuts(args):
    """Print what each rule of shortcuts.py gets right, beside the model."""
    s, _, result = read_metrics(args.run)
    test = load_splits(s.data, s.task, s.size(), False, s.seed, 1, 1, s.n_test)[2]
    print(f"{len(test)} test problems of {s.task}, {s.data}")
    for rule, accuracy in shortcut_accuracy(s.task, test).items():
        print(f"{accuracy:6.1%}  {rule}")
    if result:
        print(f"{result['test_accuracy']:6.1%}  the model, {s.method} with seed {s.seed}")


def accuracy(args):
    """Print a run's accuracy on other problems, at the stage that it has reached, and apart for the
    problems in which a shortcut is right, silent and wrong: a model that uses none has no gap."""
    ckpt, model, enc = load_run(checkpoint_of(args.run), pick_device(args.device))
    s = Settings(**ckpt["settings"])
    if os.path.isfile(args.data):
        examples = read_examples(args.data)
    else:
        examples = load_splits(args.data, s.task, s.size(), False, s.seed, 1, 1, s.n_test)[2]
    if args.hops:
        examples = [last_hops(example, args.hops) for example in examples]
    written = written_answers(model, examples, ckpt["run"]["stage"], s.curriculum(), enc, 64,
                              s.max_new_tokens)
    right = [is_correct(text, example.answer) for (text, _), example in zip(written, examples)]
    print(f"the model: {mean(right):.1%} of {len(right)} problems right\n\n"
          "the model, where a rule is ..                the rule\n"
          "right          silent         wrong          itself")
    table = [points(s.task, example) for example in examples]
    for rule in table[0]:
        cells = []
        for point in (1, 0.5, 0):
            some = [ok for ok, row in zip(right, table) if row[rule] == point]
            cells.append(f"{mean(some):6.1%} of {len(some):<4}" if some else "-")
        print("".join(f"{cell:15}" for cell in cells)
              + f"{mean(row[rule] for row in table):6.1%}  {rule}")


def last_hops(example, hops):
    """What is left of a ProntoQA problem once the proof starts so many hops before its end.

    The concepts before, and their dead ends, go with every sentence that mentions them; who was the
    first of them now is the first that is left. The other sentences stay, word for word.
    """
    def concepts(text):
        return re.findall(r"[a-z]+us(?=(?:es)?\b)", text.lower())

    start = len(example.steps) - 1 - hops
    if start < 0:
        raise ValueError(f"--hops {hops} is more than the {len(example.steps) - 1} of a problem")
    chain = [concepts(step)[0] for step in example.steps[:-1]]
    facts = [step.split(". ")[0] for step in example.steps]  # what the proof concludes, in order
    sentences = [facts[start] if sentence == facts[0] else sentence
                 for sentence in example.question.split(". ")]
    gone = set(chain[:start])
    gone |= {pair[1] for pair in map(concepts, sentences)
             if len(pair) == 2 and pair[0] in gone} - {*chain[start:start + 1]}
    kept = [sentence for sentence in sentences if not gone & {*concepts(sentence)}]
    return Example(". ".join(kept), example.steps[start:], example.answer)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Look at runs that are done.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, help, several):
        sub = commands.add_parser(function.__name__, help=help, description=function.__doc__)
        name = "runs" if several else "run"
        sub.add_argument(name, nargs="+" if several else None, metavar=name.upper())
        sub.set_defaults(function=function)
        return sub

    draw = command(curve, "loss and accuracy over training, as a picture", True)
    draw.add_argument("--out", default="curve.png", help="picture to write (default: %(default)s)")
    command(table, "accuracy, tokens and time of runs, over seeds", True)
    small = command(slim, "a copy of a checkpoint, small enough to give away", False)
    small.add_argument("--out", default="slim.pt", help="file to write (default: %(default)s)")
    command(shortcuts, "what guessing gets on the run's own test problems", False)
    other = command(accuracy, "accuracy on problems from somewhere else", False)
    other.add_argument("--data", required=True, help="a file, or what train.py's --data takes")
    other.add_argument("--hops", type=int, help="ProntoQA: only the last hops of each problem")
    other.add_argument("--device", default="auto", help="auto, cpu, cuda, mps .. (default: auto)")
    args = parser.parse_args(argv)
    try:
        args.function(args)
    except ValueError as error:
        raise SystemExit(f"analyze.py: {error}")


if __name__ == "__main__":
    main()
