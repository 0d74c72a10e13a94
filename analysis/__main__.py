"""
Look at runs that are done: how they learned, and what their accuracy is worth.

    python -m analysis --help             all commands, a line each
    python -m analysis table RUN RUN ..   accuracy, tokens and time of runs, over seeds
    python -m analysis compare RUN RUN    whether two differ by more than chance, paired by problem
    python -m analysis intervene RUN      whether the answers need the thoughts

A RUN is a folder that train.py has written; for `curve`, `bars`, `sizes`, `table`, `compare` and
`shortcuts` its metrics.jsonl under any name will do, for the others its checkpoint. Only pictures
need matplotlib.
"""
import argparse
import json
import os
import re
from dataclasses import replace
from statistics import mean

import torch

from analysis import draw, graphs, thoughts
from analysis.runs import (COMPARISON, TABLE, best_guess, checkpoint_of, comparison, grouped,
                           print_table, problems_of_log, read_metrics, rows_of_table)
from curriculum import NO_LOSS, Curriculum, Markers, build
from harness.files import write_whole
from harness.settings import count, label
from harness.start import load_run, tested_problems
from tasks import SIZES
from tasks.common import points, shortcut_accuracy
from tasks.prontoqa import last_hops
from tasks.record import Example, UserError


def curve(args):
    """Draw loss and accuracy over training; of runs that differ in the seed alone, one is bold."""
    runs = [(f"{s.task}, {s.data}: {label(s)}", epochs)
            for s, epochs, _ in map(read_metrics, args.runs)]
    draw.curve(runs).savefig(args.out)
    print(f"drew {len(runs)} runs to {args.out}")


def pooled(runs):
    """Accuracy of runs that differ in the seed alone, its interval, and the best guess. A file has
    the same problems at every seed, which then count once."""
    share = mean(result["test_accuracy"] for *_, result in runs)
    n = sum({s.seed if s.generated else s.data: result["test_n"] for s, _, result in runs}.values())
    return {"accuracy": share, "interval": thoughts.interval(share * n, n),
            "guess": mean(best_guess(s, result) for s, _, result in runs)}


def bars(args):
    """Draw the accuracy of methods, where a guess helps and where none does, over all seeds. Only
    runs of coconut, cot, pause_as_thought and no_cot without other options are drawn."""
    rows = [{"task": task, "data": data, "method": name} | pooled(runs)
            for (task, _, _, data, name), runs in sorted(grouped(args.runs).items())
            if name in draw.COLORS]
    if not rows:
        raise UserError(f"none of these is a run of {', '.join(draw.COLORS)} without options")
    draw.bars(rows).savefig(args.out)
    print(f"drew {len(rows)} bars to {args.out}")


def sizes(args):
    """Draw the accuracy over the one size in which the runs' problems differ, over all seeds."""
    groups = sorted(grouped(args.runs).items())
    differ = [name for name in SIZES
              if len({getattr(runs[0][0], name) for _, runs in groups}) > 1]
    if len(differ) != 1:
        raise UserError(f"the runs must differ in one size, of {', '.join(SIZES)}: they differ in "
                        f"{' and '.join(differ) or 'none'}")
    rows, kinds = [], set()
    may_differ = re.compile(rf" --(n_layer|{differ[0]}) \S+")
    for (_, _, _, data, name), runs in groups:
        s = runs[0][0]  # what we read of it is alike in all of them
        kinds.add((s.method, data, may_differ.sub("", name)))
        rows.append({"method": s.method, "layers": s.n_layer, "size": getattr(s, differ[0]),
                     "seeds": [result["test_accuracy"] for *_, result in runs]} | pooled(runs))
    places = {(row["method"], row["layers"], row["size"]) for row in rows}
    if len(places) < len(rows) or len(kinds) > len({row["method"] for row in rows}):
        raise UserError("besides their size the runs may differ in seed, method and n_layer only")
    draw.sizes(rows, differ[0]).savefig(args.out)
    print(f"drew {len(rows)} points to {args.out}")


def passes(args):
    """Draw which pass computes which columns of a row, at stage 2 of three steps."""
    ids, targets, _ = build(Example([*"QQQ"], [*"123"], [*"A"]), 2, Curriculum(),
                            Markers("<bot>", "<eot>", "T", "P"))
    thought, learned = [token == "T" for token in ids], [target != NO_LOSS for target in targets]
    draw.passes(ids, thought, learned).savefig(args.out)
    print(f"drew {args.out}")


def table(args):
    """Print a row for all runs that differ in the seed alone: see runs.rows_of_table."""
    print_table(TABLE, rows_of_table(args.runs))


def compare(args):
    """Print how far runs are from the first on the same test problems: see runs.comparison."""
    print_table(COMPARISON, comparison(args.runs))


def slim(args):
    """Write a run's checkpoint anew with weights in float16 and without the optimizer: a sixth."""
    ckpt = load_run(checkpoint_of(args.run))[0]
    ckpt["settings"] |= ckpt.pop("unknown")
    ckpt["model"] = {name: tensor.half() for name, tensor in ckpt["model"].items()}
    ckpt["model"]["lm_head.weight"] = ckpt["model"]["wte.weight"]  # one tensor, stored once
    ckpt.pop("optimizer", None)  # a slim one has none
    write_whole(args.out, "wb", lambda file: torch.save(ckpt, file))
    print(f"wrote {os.path.getsize(args.out) / 1e6:.1f} MB to {args.out}")


def print_rules(accuracies):
    for rule, accuracy in accuracies.items():
        print(f"{accuracy:6.1%}  {rule}")
    if not accuracies:
        print("no rule applies: the task's guesses read questions in its own words")


def shortcuts(args):
    """Print what each of the task's rules gets right, beside the model."""
    s, _, result = read_metrics(args.run)
    test = problems_of_log(s, result) if result else tested_problems(s)
    print(f"{len(test)} test problems of {s.task}, {s.data}")
    print_rules(shortcut_accuracy(s.task, test))
    if result:
        print(f"{result['test_accuracy']:6.1%}  the model, {s.method} with seed {s.seed}")


def accuracy(args):
    """Print a run's accuracy at the stage that it has reached, and what it depends on.

    By the number of steps of a problem; by what the model writes, for ProsQA; and apart for the
    problems in which a shortcut is right, silent and wrong: a model that uses none has no gap."""
    probe = thoughts.load_probe(args.run, args.data, device=args.device)
    if args.hops is not None:
        if probe.task != "prontoqa":
            raise UserError(f"--hops is for prontoqa, the run of {probe.task}")
        probe.examples = [last_hops(example, args.hops) for example in probe.examples]
    written = probe.written(probe.k)
    right = probe.right(written)
    print(f"the model: {mean(right):.1%} of {len(right)} problems right\n")
    by_steps = {}
    for ok, example in zip(right, probe.examples):
        by_steps.setdefault(len(example.steps), []).append(ok)
    print_table(["steps", "problems", "right"],
                [[n, len(some), f"{mean(some):.1%}"] for n, some in sorted(by_steps.items())])
    print()
    if shares := thoughts.categories(probe, written):
        print_rules(shares)
        print()
    rows = []
    for rule, values in points(probe.task, probe.examples).items():
        groups = [[ok for ok, value in zip(right, values) if value == point]
                  for point in (1, 0.5, 0)]
        rows.append([rule, f"{mean(values):.1%}",
                     *(f"{mean(some):.1%} of {len(some)}" if some else "-" for some in groups)])
    if rows:
        print_table(["rule", "alone", "the model where it is right", "silent", "wrong"], rows)
    else:
        print_rules({})


def probe_of(args, *tasks, needs_thoughts=True):
    """The Probe that the command line names. UserError if these tasks are not the run's."""
    probe = thoughts.load_probe(args.run, args.data, args.n, args.device)
    if tasks and probe.task not in tasks:
        raise UserError(f"{args.command} is for {' and '.join(tasks)}, the run of {probe.task}")
    if needs_thoughts and probe.c.fill != "thought":
        raise UserError(f"a run of {probe.c.method} has no thoughts to look at")
    if args.command in ("tree", "superposition") and probe.c.c_thought > 1:
        raise UserError(f"{args.command} takes a thought for a hop, but the run has "
                        f"{probe.c.c_thought} for each step")
    return probe


def example_of(args, probe):
    """The problem that --index names. UserError if there is none."""
    if args.index >= len(probe.examples):
        raise UserError(f"--index must be 0 to {len(probe.examples) - 1}")
    return probe.examples[args.index]


def keep(args, **results):
    """Write OUT.json, and OUT.png by the functions of draw.py that have the results' names."""
    if not args.out:
        return
    with open(args.out + ".json", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    names = [name for name in results if hasattr(draw, name)]
    for i, name in enumerate(names):
        getattr(draw, name)(results[name]).savefig(args.out + f"-{name}" * (i > 0) + ".png")
    print(f"\nwrote {args.out}.json" + f" and {args.out}.png" * bool(names))


def print_rows(result):
    """The rows of a measure as a table; shares are in %."""
    def cell(name, value):
        if isinstance(value, dict):
            return f"{value['mean']:+.3f} ({value['nodes']})"
        if isinstance(value, tuple):
            return " to ".join(cell(name, end) for end in value)
        if isinstance(value, float):
            return f"{value:.1f}" if name == "tokens" else f"{100 * value:.1f}"
        return "-" if value is None else value

    print(f"{result['n']} problems\n")
    print_table(result["rows"][0], [[cell(*item) for item in row.items()]
                                    for row in result["rows"]])


def sweep(args):
    """Answer with fewer and more thoughts than at the last stage."""
    probe = probe_of(args)
    result = thoughts.sweep(probe, probe.k if args.most is None else args.most)
    print_rows(result)
    keep(args, sweep=result)


def retry(args):
    """Let a run answer ProsQA again where it names neither option, with and without thoughts."""
    result = thoughts.retry(probe_of(args, "prosqa", needs_thoughts=False), args.most)
    print_rows(result)
    keep(args, retry=result)


def tree(args):
    """Show the search tree of one ProsQA problem, and the frontier over many."""
    probe = probe_of(args, "prosqa")
    one, many = graphs.tree(probe, example_of(args, probe)), graphs.frontier(probe)
    print(f"{one['question']}\nanswer: {one['answer']}\n")
    after = [f"after {k}" for k in range(probe.k + 1)]
    print_table(["node", "hops", "height", "leads to", "on a shortest way", *after], [
        [node["node"], "-" if node["hops"] is None else node["hops"], node["height"],
         " ".join(one["children"].get(node["node"], ())), "yes" if node["optimal"] else "",
         *(f"{value:.2f}" for value in node["values"])] for node in one["nodes"]])
    print(f"\nmean over {many['n']} problems of the sum of the highest values in the frontier\n")
    print_table(["thoughts", "highest", "2 highest", "3 highest", "problems"], [
        [step["thoughts"], *(f"{mean(values):.2f}" for values in step["top"]), step["problems"]]
        for step in many["parallelism"] if step["problems"]])
    keep(args, tree=one, frontier=many)


def superposition(args):
    """Compare thoughts with the embeddings of ProsQA's nodes: mean cosine (number of nodes)."""
    probe = probe_of(args, "prosqa")
    example = example_of(args, probe)
    result = graphs.superposition(probe)
    values, = graphs.cosines(replace(probe, examples=[example]))
    one = graphs.beside_graph(example, values)
    print_rows(result)
    keep(args, superposition=result, cosines=one)


def intervene(args):
    """Replace the thoughts by something else, and count the right answers."""
    result = thoughts.intervene(probe_of(args))
    print_rows(result)
    print()
    print_rules(result["shortcuts"])
    keep(args, intervene=result)


def decode(args):
    """Show what tokens the thoughts of a few problems are near to, and of which steps they are."""
    result = thoughts.decode(probe_of(args))
    for problem in result["problems"][:args.show]:
        print(f"{problem['question']}\n{' '.join(problem['steps'])}\n{problem['answer']}")
        for number, thought in enumerate(problem["thoughts"], start=1):
            tokens = "   ".join(f"{token!r} {p:.2f}" for token, p in
                                zip(thought["tokens"], thought["probabilities"]))
            cosine = thought["cosine with the one before"]
            print(f"  thought {number}  norm {thought['norm']:5.2f}  cosine "
                  f"{'    -' if cosine is None else f'{cosine:5.2f}'}   {tokens}")
        print()
    print_rows(result)
    keep(args, decode=result)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m analysis",
                                     description="Look at runs that are done.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(function, runs="run"):
        sub = commands.add_parser(function.__name__, description=function.__doc__,
                                  help=function.__doc__.splitlines()[0].rstrip("."))
        if runs:
            sub.add_argument(runs, nargs="+" if runs == "runs" else None, metavar=runs.upper())
        sub.set_defaults(function=function)
        return sub

    for sub in (command(curve, "runs"), command(bars, "runs"), command(sizes, "runs"),
                command(passes, None)):
        sub.add_argument("--out", default="out.png", help="the picture (default: %(default)s)")
    command(table, "runs")
    command(compare, "runs")
    command(slim).add_argument("--out", default="slim.pt", help="(default: %(default)s)")
    command(shortcuts)
    for function in (accuracy, sweep, retry, tree, superposition, intervene, decode):
        sub = command(function)
        sub.add_argument("--data", help="a file, or what train.py's --data takes (default: its)")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, mps .. (default: auto)")
        if function is accuracy:
            sub.add_argument("--hops", type=int, help="ProntoQA: only the last hops of a problem")
            continue
        sub.add_argument("--n", type=count, help="problems to look at (default: all)")
        sub.add_argument("--out", help="write OUT.json, and OUT.png if there is a picture")
        if function is sweep:
            sub.add_argument("--most", type=count, help="thoughts (default: the run's last number)")
        if function is retry:
            sub.add_argument("--most", type=count, default=4, help="tries more (default: 4)")
        if function in (tree, superposition):
            sub.add_argument("--index", type=count, default=0, help="which problem to draw, from 0")
        if function is decode:
            sub.add_argument("--show", type=count, default=3, help="problems shown (default: 3)")
    args = parser.parse_args(argv)
    try:
        args.function(args)
    except (UserError, OSError) as error:
        raise SystemExit(f"analysis: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
