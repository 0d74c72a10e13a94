"""
Look at runs that are done: how they learned, what their accuracy is worth, what their thoughts do.

    python -m analysis --help             all commands, a line each
    python -m analysis table RUN RUN ..   accuracy, tokens and time of runs, over seeds
    python -m analysis compare RUN RUN    whether two differ by more than chance, paired by problem
    python -m analysis intervene RUN      whether the answers need the thoughts

A RUN is a folder that train.py has written, or the file in it that a command reads: table, compare,
curve, shortcuts and keep its metrics.jsonl, the others its ckpt.pt. A run that keep has put into a
file of many is FILE.jsonl:NAME; a NAME with wildcards is all that match.
"""
import argparse
import re
import sys
from pathlib import Path
from shlex import join

import torch

from analysis import runs
from analysis.bench import bench
from analysis.graphs import tree
from analysis.thoughts import accuracy, decode, intervene, load_probe, retry, sweep
from harness.files import write_whole
from harness.settings import count, label
from harness.start import load_run, tested_problems
from tasks.common import shortcut_accuracy
from tasks.record import UserError


def curve(args):
    """Draw loss and accuracy over training; of runs that differ in the seed alone, one is bold."""
    runs.curve(args.runs).savefig(args.out)
    print(f"drew {args.out}")


def table(args):
    """Print a row for all runs that differ in the seed alone: accuracy, tokens, time."""
    runs.print_table(runs.TABLE, runs.rows_of_table(args.runs))


def compare(args):
    """Print by how much runs differ from the first on the same test problems, paired by problem."""
    runs.print_table(runs.COMPARISON, runs.comparison(args.runs))


def shortcuts(args):
    """Print what each of the task's shortcuts gets right, beside the model."""
    s, _, test = runs.read_metrics(args.run)
    examples = runs.problems_of_log(s, test) if test else tested_problems(s)
    return {"run": f"{s.task}, {s.data}: {label(s)}, seed {s.seed}", "n": len(examples),
            **({"accuracy": test["test_accuracy"]} if test else {}),
            "shortcuts": shortcut_accuracy(s.task, examples)}


def keep(args):
    """Append a run's log to a file of many, where it is FILE.jsonl:NAME from then on."""
    kept = runs.json_lines(args.out) if Path(args.out).exists() else []
    if args.name in [line["name"] for line in kept]:
        raise UserError(f"{args.out} has a run {args.name} already")
    runs.append(args.out, {"name": args.name, "patch": args.patch, **runs.commit_and_date(),
                           **runs.line_of_log(args.run)})


def slim(args):
    """Write a run's checkpoint anew with weights in float16 and without the optimizer: a sixth."""
    ckpt = load_run(runs.in_folder(args.run, "ckpt.pt"))[0]
    ckpt["settings"] |= ckpt.pop("unknown")
    ckpt["model"] = {name: tensor.half() for name, tensor in ckpt["model"].items()}
    ckpt["model"]["lm_head.weight"] = ckpt["model"]["wte.weight"]  # one tensor, stored once
    ckpt.pop("optimizer", None)  # a slim one has none
    write_whole(args.out, "wb", lambda file: torch.save(ckpt, file))
    print(f"wrote {Path(args.out).stat().st_size / 1e6:.1f} MB to {args.out}")


MEASURES = {accuracy: {}, intervene: {}, decode: {"show": 3}, sweep: {"most": None},
            retry: {"most": 4}, tree: {"index": 0}}  # with their options


def measure(args):
    probe = load_probe(args.run, args.data, args.n, args.device)
    return args.measure(probe, **{name: getattr(args, name) for name in MEASURES[args.measure]})


def show(result):
    """Print what was measured: lists of dicts as tables, dicts line by line. Floats are shares, in
    %, unless the name of their column says that they are something else."""
    def cell(name, value):
        if isinstance(value, (list, tuple)):
            return (" to " if name == "interval" else " ").join(cell(name, one) for one in value)
        if isinstance(value, float):
            plain = re.search("tokens|norm|values|cosine|highest|ms$|MB$|matmul|GFLOP|/", name)
            return f"{value:.2f}" if plain else f"{100 * value:.1f}"
        return "-" if value is None else str(value)

    if "accuracy" in result:
        print(f"{result['accuracy']:.1%} of {result['n']} problems right")
    elif "n" in result:
        print(f"{result['n']} problems")
    for name, value in result.items():
        if isinstance(value, str):
            print(f"{name}: {value}")
        elif isinstance(value, dict) and value:
            print(f"\n{name}", *(f"{cell(key, one):>6}  {key}" for key, one in value.items()),
                  sep="\n")
        elif isinstance(value, list) and value:
            print(f"\n{name}\n")
            runs.print_table(value[0], [[cell(*item) for item in row.items()] for row in value])
        elif name == "shortcuts":
            print("\nno shortcut applies: they read questions in the task's own words")


HELP = {"out": "the file to write, or to append a measure to", "n": "how many problems to look at",
        "data": "a file, or what train.py's --data takes, instead of the run's own problems",
        "device": "auto, cpu, cuda, mps ..", "patch": "the patch of hacks/ that made the run"}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Look at runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(function, *names, **options):
        """Add a command that is given these names, and options with these defaults."""
        sub = commands.add_parser(function.__name__, description=function.__doc__,
                                  help=function.__doc__.splitlines()[0].rstrip("."))
        for name in names:
            sub.add_argument(name, nargs="+" if name == "runs" else None, metavar=name.upper())
        for name, default in options.items():
            sub.add_argument(f"--{name}", default=default, help=HELP.get(name, "see above"),
                             type=str if name in ("out", "data", "device", "patch") else count)
        sub.set_defaults(function=measure if function in MEASURES else function, measure=function)

    for function, options in MEASURES.items():
        command(function, "run", data=None, n=None, device="auto", out=None, **options)
    command(shortcuts, "run", out=None)
    command(table, "runs")
    command(compare, "runs")
    command(curve, "runs", out="curve.png")
    command(keep, "run", "name", patch=None, out="results/runs.jsonl")
    command(slim, "run", out="slim.pt")
    command(bench, out=None)
    args, args.of_train = parser.parse_known_args(argv)
    if args.of_train and args.command != "bench":
        parser.error(f"unrecognized arguments: {join(args.of_train)}")
    try:
        if result := args.function(args):
            show(result)
            if args.out:
                name = f"{args.command}/{Path(getattr(args, 'run', 'run')).stem}"
                runs.append(args.out, {"name": name, "command": f"python -m analysis {join(argv)}",
                                       **runs.commit_and_date(), "result": result})
    except (UserError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(f"analysis: {str(error) or 'stopped'}")


if __name__ == "__main__":
    main()
