"""
Look at runs that are done: how they learned, and what their accuracy is worth.

    python analyze.py curve results/*.jsonl      loss and accuracy over training, as a picture
    python analyze.py table results/*.jsonl      accuracy, tokens and time of runs, over seeds
    python analyze.py slim RUN                   a copy of its checkpoint, small enough to give away
    python analyze.py shortcuts RUN              what guessing gets on the run's own test problems
    python analyze.py accuracy RUN --data FILE   accuracy on problems from somewhere else
    python analyze.py intervene RUN              into its thoughts; also sweep, tree, superposition,
                                                 decode: see thoughts.py, graphs.py

A RUN is a folder that train.py has written; for `curve`, `table` and `shortcuts` its metrics.jsonl
under any name will do, for the others its checkpoint. Only pictures need matplotlib.
"""
import argparse
import json
import os
import re
from statistics import mean, stdev

import torch

import draw
import graphs
import thoughts
from curriculum import METHODS, n_thoughts
from data import Example, is_correct, read_examples
from evaluate import prompts_of, written_answers
from files import write_whole
from runs import load_run, pick_device, tested_problems
from settings import Settings, label
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


def print_table(names, rows):
    for row in (names, ["---"] * len(names), *rows):
        print(f"| {' | '.join(map(str, row))} |")


# --------------------------------------------------------------------------------------------------
# Many runs

def curve(args):
    """Draw training and validation loss, and accuracy, over steps: a column of panels a task."""
    runs = [read_metrics(path)[:2] for path in args.runs]
    draw.curve([(s.task, label(s) + f", {s.data}" * (s.data != "generated"), epochs)
                for s, epochs in runs], args.out)
    print(f"drew {len(runs)} runs to {args.out}")


def table(args):
    """Print a row for all runs that differ in the seed alone, which are averaged; sd is over them.

    Accuracy is in %, after each stage on validation problems. best guess: that of the best rule on
    the same test problems, if they are generated; tokens: written ones and thoughts a problem; ms:
    to write the answer to a problem, in batches; minutes: of the whole training.
    """
    groups = {}
    for path in args.runs:
        s, epochs, result = read_metrics(path)
        if result is None:
            raise ValueError(f"{path} has no test results: the run is not done")
        key = (s.task, s.data != "generated", list(METHODS).index(s.method), s.data, label(s))
        groups.setdefault(key, []).append((s, epochs, result))
    rows = []
    for (task, _, _, data, name), runs in sorted(groups.items()):
        settings, histories, results = zip(*runs)
        by_stage = [{line["stage"]: 100 * line["val_accuracy"] for line in epochs}
                    for epochs in histories]
        stages = " ".join(f"{mean(run[stage] for run in by_stage):.1f}" for stage in by_stage[0])
        tests = [100 * result["test_accuracy"] for result in results]
        spread = f"{stdev(tests):.1f}" if len(tests) > 1 else ""
        guess = f"{mean(map(best_guess, settings)):.1f}" if settings[0].generated else ""
        tokens, milliseconds, minutes = (
            scale * mean(result[key] for result in results) for key, scale in
            [("test_tokens", 1), ("test_seconds", 1000), ("seconds", 1 / 60)])
        rows.append([f"`{task}`", data, f"`{name}`", len(runs), stages, f"{mean(tests):.1f}",
                     spread, guess, f"{tokens:.1f}", f"{milliseconds:.0f}", f"{minutes:.0f}"])
    print_table(["task", "data", "method", "seeds", "after each stage", "test", "sd",
                 "best guess", "tokens", "ms", "minutes"], rows)


def best_guess(s):
    """The accuracy in % of the rule of shortcuts.py that has most of a run's test problems."""
    return 100 * max(shortcut_accuracy(s.task, tested_problems(s)).values())


# --------------------------------------------------------------------------------------------------
# slim

def slim(args):
    """Write a run's checkpoint anew with weights in float16 and without the optimizer: a sixth."""
    ckpt = load_run(checkpoint_of(args.run))[0]
    ckpt["model"] = {name: tensor.half() for name, tensor in ckpt["model"].items()}
    ckpt["model"]["lm_head.weight"] = ckpt["model"]["wte.weight"]  # one tensor, stored once
    ckpt.pop("optimizer", None)  # a slim one has none
    write_whole(args.out, "wb", lambda file: torch.save(ckpt, file))
    print(f"wrote {os.path.getsize(args.out) / 1e6:.1f} MB to {args.out}")


# --------------------------------------------------------------------------------------------------
# What an accuracy is worth

NO_RULES = "no rule of shortcuts.py applies: they read questions in the task's own words"


def print_rules(accuracies):
    for rule, accuracy in accuracies.items():
        print(f"{accuracy:6.1%}  {rule}")
    if not accuracies:
        print(NO_RULES)


def shortcuts(args):
    """Print what each rule of shortcuts.py gets right, beside the model."""
    s, _, result = read_metrics(args.run)
    test = tested_problems(s)
    print(f"{len(test)} test problems of {s.task}, {s.data}")
    print_rules(shortcut_accuracy(s.task, test))
    if result:
        print(f"{result['test_accuracy']:6.1%}  the model, {s.method} with seed {s.seed}")


def accuracy(args):
    """Print a run's accuracy on other problems, at the stage that it has reached, and apart for the
    problems in which a shortcut is right, silent and wrong: a model that uses none has no gap."""
    s, ckpt, model, enc, examples = model_and_problems(args.run, args.data, args.device)
    if args.hops:
        examples = [last_hops(example, args.hops) for example in examples]
    c = s.curriculum()
    prompts = prompts_of(examples, n_thoughts(ckpt["run"]["stage"], c), c, enc)
    written = written_answers(model, prompts, enc, 64, s.max_new_tokens)
    right = [is_correct(text, example.answer) for (text, _), example in zip(written, examples)]
    print(f"the model: {mean(right):.1%} of {len(right)} problems right\n")
    rules = points(s.task, examples)
    print("the model, where a rule is ..                the rule\n"
          "right          silent         wrong          itself" if rules else NO_RULES)
    for rule, values in rules.items():
        cells = []
        for point in (1, 0.5, 0):
            some = [ok for ok, value in zip(right, values) if value == point]
            cells.append(f"{mean(some):6.1%} of {len(some):<4}" if some else "-")
        print("".join(f"{cell:15}" for cell in cells) + f"{mean(values):6.1%}  {rule}")


def model_and_problems(run, data=None, device="auto"):
    """Settings, checkpoint, model, Encoding of a run, and Examples to try it with: of a file, of
    what load_splits takes, or by default the run's own test split."""
    ckpt, model, enc = load_run(checkpoint_of(run), pick_device(device))
    s = Settings(**ckpt["settings"])
    source = data or s.data
    examples = read_examples(source) if os.path.isfile(source) else tested_problems(s, source)
    return s, ckpt, model.eval(), enc, examples


def last_hops(example, hops):
    """What is left of a ProntoQA problem once the proof starts so many hops before its end.

    The concepts before, and their dead ends, go with every sentence that mentions them; who was the
    first of them now is the first that is left. The other sentences stay, word for word.
    """
    def concepts(text):
        return re.findall(r"[a-z]+us(?=(?:es)?\b)", text.lower())

    if example.steps[-1][-1] != ".":
        raise ValueError("--hops is for problems whose steps are sentences, not names")
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


# --------------------------------------------------------------------------------------------------
# Thoughts, by thoughts.py and graphs.py

def load_probe(run, data=None, n=None, device="auto"):
    """The thoughts.Probe of a run, with n problems as for model_and_problems."""
    s, ckpt, model, enc, examples = model_and_problems(run, data, device)
    if METHODS[s.method].fill != "thought":
        raise ValueError(f"a run of {s.method} has no thoughts to look at")
    return thoughts.Probe(model, enc, examples[:n], s.task, s.curriculum(), ckpt["run"]["stage"],
                          s.max_new_tokens, names=s.steps == "names")


def probe_of(args, *tasks):
    """That of the command line; ValueError if the run is of another than these tasks."""
    probe = load_probe(args.run, args.data, args.n, args.device)
    if tasks and probe.task not in tasks:
        raise ValueError(f"{args.command} is for {' and '.join(tasks)}, the run of {probe.task}")
    return probe


def keep(args, **results):
    """Write OUT.json, and OUT.png by the functions of draw.py that have the results' names."""
    if not args.out:
        return
    with open(args.out + ".json", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    names = [name for name in results if hasattr(draw, name)]
    for i, name in enumerate(names):
        getattr(draw, name)(results[name], f"{args.out}{f'-{name}' if i else ''}.png")
    print(f"\nwrote {args.out}.json" + f" and {args.out}.png" * bool(names))


def percent(share):
    return f"{100 * share:.1f}"


def sweep(args):
    """Answer with fewer and more thoughts than at the last stage."""
    probe = probe_of(args)
    result = thoughts.sweep(probe, probe.k if args.most is None else args.most)
    kinds = graphs.CATEGORIES if probe.task == "prosqa" else []
    print(f"{result['n']} problems; trained with {probe.k} thoughts at last; shares in %\n")
    print_table(["thoughts", "accuracy", "95 % interval", "tokens", *kinds], [
        [row["thoughts"], percent(row["accuracy"]), " to ".join(map(percent, row["interval"])),
         f"{row['tokens']:.1f}", *(percent(row[kind]) for kind in kinds)]
        for row in result["rows"]])
    keep(args, sweep=result)


def tree(args):
    """Show the search tree of one ProsQA problem, and the frontier over many."""
    probe = probe_of(args, "prosqa")
    if not 0 <= args.index < len(probe.examples):
        raise ValueError(f"--index must be 0 to {len(probe.examples) - 1}")
    one, many = graphs.tree(probe, args.index), graphs.frontier(probe)
    print(f"{one['question']}\nanswer: {one['answer']} * on a shortest way, h height; "
          f"value after 0 to {probe.k} thoughts\n\n{one['root']}")
    by_name, shown = {node["node"]: node for node in one["nodes"]}, set()

    def line(name, indent):
        node = by_name[name]
        values = "  ".join(f"{value:.2f}" for value in node["values"])
        label = f"{'  ' * indent}{name}{' *' * node['optimal']}{' again' * (name in shown)}"
        print(f"{label:32} h {node['height']}   {values}")
        for child in one["children"].get(name, ()) if name not in shown else ():
            line(child, indent + 1)
        shown.add(name)

    for child in one["children"].get(one["root"], ()):
        line(child, 1)
    print("not to be reached:")
    for name in by_name:
        if name not in shown:
            line(name, 1)
    print(f"\nmean over {many['n']} problems of the sum of the highest 1, 2, 3 values among the "
          "candidates")
    for step in (step for step in many["parallelism"] if step["problems"]):
        tops = "  ".join(f"{mean(values):.2f}" for values in step["top"])
        print(f"  after {step['thoughts']} thoughts  {tops}   ({step['problems']} problems)")
    keep(args, tree=one, frontier=many)


def superposition(args):
    """Compare thoughts with the embeddings of the nodes of ProsQA's graphs."""
    result = graphs.superposition(probe_of(args, "prosqa"))
    kinds = [kind for kind in result["rows"][0] if kind != "thought"]
    print(f"mean cosine (number of nodes), over {result['n']} problems\n")
    print_table(["thought", *kinds], [
        [row["thought"], *(f"{row[kind]['mean']:+.3f} ({row[kind]['nodes']})" if row[kind] else "-"
                           for kind in kinds)] for row in result["rows"]])
    keep(args, superposition=result)


def intervene(args):
    """Replace the thoughts by something else, and count the right answers."""
    result = thoughts.intervene(probe_of(args))
    print(f"{result['n']} problems\n")
    print_table(["thoughts", "accuracy", "95 % interval", "if as good as intact"], [
        [row["thoughts"], percent(row["accuracy"]), " to ".join(map(percent, row["interval"])),
         row["if as good as intact"]] for row in result["rows"]])
    print()
    print_rules(result["shortcuts"])
    keep(args, intervene=result)


def decode(args):
    """Show what tokens the thoughts of a few problems are near to."""
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
    print(f"the nearest token is the first of .., in % of {result['n']} problems\n")
    print_table(result["rows"][0], [[thought, *map(percent, shares)] for thought, *shares in
                                    (row.values() for row in result["rows"])])
    keep(args, decode=result)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Look at runs that are done.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(function, several=False):
        sub = commands.add_parser(function.__name__, description=function.__doc__,
                                  help=function.__doc__.splitlines()[0].rstrip("."))
        name = "runs" if several else "run"
        sub.add_argument(name, nargs="+" if several else None, metavar=name.upper())
        sub.set_defaults(function=function)
        return sub

    command(curve, several=True).add_argument("--out", default="curve.png",
                                              help="picture to write (default: %(default)s)")
    command(table, several=True)
    command(slim).add_argument("--out", default="slim.pt", help="(default: %(default)s)")
    command(shortcuts)
    for function in (accuracy, sweep, tree, superposition, intervene, decode):
        sub = command(function)
        sub.add_argument("--data", help="a file, or what train.py's --data takes (default: as the "
                                        "run)")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, mps .. (default: auto)")
        if function is accuracy:
            sub.add_argument("--hops", type=int, help="ProntoQA: only the last hops of a problem")
            continue
        sub.add_argument("--n", type=int, help="problems to look at (default: all)")
        sub.add_argument("--out", help="write OUT.json and a picture OUT.png")
        if function is sweep:
            sub.add_argument("--most", type=int, help="thoughts (default: as the run had at last)")
        if function is tree:
            sub.add_argument("--index", type=int, default=0, help="which problem to show, from 0")
        if function is decode:
            sub.add_argument("--show", type=int, default=3, help="problems shown (default: 3)")
    args = parser.parse_args(argv)
    try:
        args.function(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"analyze.py: {error}")


if __name__ == "__main__":
    main()
