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
import os
import re
import sys
from pathlib import Path
from shlex import join

from analysis.bench import bench
from analysis.export import export
from analysis.graphs import tree
from analysis.runs import append, compare, curve, keep, print_table, shortcuts, table
from analysis.surprises import surprises
from analysis.thoughts import accuracy, decode, intervene, load_probe, retry, slim, sweep
from harness.settings import count
from tasks.record import UserError, told

# What each command is given; its function has the defaults. A measure is one of a Probe.
MEASURE = "run --data --n --device --out "
COMMANDS = {table: "runs", compare: "runs", curve: "runs --out", shortcuts: "runs",
            keep: "run name --patch --out", slim: "run --out", bench: "",
            export: "run folder",
            accuracy: MEASURE, intervene: MEASURE, decode: MEASURE + "--show",
            sweep: MEASURE + "--most", retry: MEASURE + "--most", tree: MEASURE + "--index",
            surprises: MEASURE}
ARGUMENTS = {
    "run": {}, "runs": {"nargs": "+"}, "name": {},
    "folder": {"help": "where to write config.json, the weights and the tokenizer"},
    "--data": {"help": "a file, or what train.py's --data takes, instead of the run's problems"},
    "--n": {"help": "how many problems to look at (default: all)", "type": count},
    "--device": {"help": "auto, cpu, cuda, mps .. (default: auto)"},
    "--out": {"help": "the file to write, or to append a measure or a log to"},
    "--patch": {"help": "the patch of hacks/ that made the run"},
    "--show": {"help": "how many problems to show", "type": count},
    "--most": {"help": "the most thoughts, or tries", "type": count},
    "--index": {"help": "which problem to show, from 0", "type": count}}


def measure(function, command, run, data=None, n=None, device="auto", out=None, **options):
    """Print what a measure finds, and append it to a file, beside the command that was typed."""
    if out and not os.access(os.path.dirname(out) or ".", os.W_OK):  # told before the work
        raise UserError(f"cannot write {out}: its folder is missing or closed")
    result = function(load_probe(run, data, n, device), **options)
    show(result)
    if out:
        append(out, {"name": f"{function.__name__}/{Path(run).stem}", "command": command},
               {"result": result})


def show(result):
    """Print what was measured: lists of dicts as tables, dicts line by line. Floats are shares, in
    %, unless the name of their column says that they are something else."""
    def cell(name, value):
        if isinstance(value, (list, tuple)):
            return (" to " if name == "interval" else " ").join(cell(name, one) for one in value)
        if isinstance(value, float):
            plain = re.search("tokens|norm|values|cosine|highest", name)
            return f"{value:.2f}" if plain else f"{100 * value:.1f}"
        return "-" if value is None else str(value)

    if "accuracy" in result:
        print(f"{result['accuracy']:.1%} of {result['n']} problems right")
    else:
        print(f"{result['n']} problems")
    for name, value in result.items():
        if isinstance(value, str):
            print(f"{name}: {value}")
        elif isinstance(value, dict) and value:
            print(f"\n{name}", *(f"{cell(key, one):>6}  {key}" for key, one in value.items()),
                  sep="\n")
        elif isinstance(value, list) and value:
            print(f"\n{name}\n")
            print_table(value[0], [[cell(*item) for item in row.items()] for row in value])


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Look at runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, names in COMMANDS.items():
        sub = commands.add_parser(function.__name__, description=function.__doc__,
                                  help=function.__doc__.split("\n")[0].rstrip("."),
                                  argument_default=argparse.SUPPRESS)
        sub.set_defaults(function=function)
        for name in names.split():
            sub.add_argument(name, **ARGUMENTS[name])
    args, of_train = parser.parse_known_args(argv)
    function = vars(args).pop("function")
    if of_train and function is not bench:
        parser.error(f"unrecognized arguments: {join(of_train)}")
    with told("analysis"):
        if COMMANDS[function].startswith(MEASURE):
            measure(function, f"python -m analysis {join(argv)}", **vars(args))
        elif function is bench:
            bench(of_train)
        else:
            function(**vars(args))


if __name__ == "__main__":
    main()
