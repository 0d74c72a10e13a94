"""
What a training step and an evaluation cost, beside the slow version and the lower bound.

    python bench.py                        ProsQA at official size, four layers of width 256
    python bench.py --n_layer 12 --n_embd 768 --n_head 12 --device cuda --dtype bfloat16
    python bench.py --scaling              how cost grows with thoughts, length, batch and width

Three ways to compute the loss of one batch and its gradient are timed in turn, round after round:

    floor    one forward pass over the same columns, as if thoughts were ordinary tokens
    ours     `think`: the question once, then a column a thought, and what follows with the last
    slow     the definition: K + 1 forward passes over everything, without a cache

All three apply the head to the supervised columns alone. A ratio is the median of the ratios within
a round, so that it holds on a noisy machine too. Memory is the most that a step adds to what the
process held before; on a CPU each is measured in a process of its own, on Linux only.
"""
import argparse
import json
import math
import re
import subprocess
import sys
import time
from statistics import median

import numpy as np
import torch

from curriculum import NO_LOSS, Curriculum, build
from data import (collate, encode, gpt2_encoding, load_splits, markers_of, read_examples, text_of,
                  word_encoding)
from evaluate import answers, collate_prompts, prompts_of, supervised_loss
from model import GPT, GPTConfig, positions_and_mask, think
from tasks import SIZES


# --------------------------------------------------------------------------------------------------
# The three ways

def floor(model, ids, thought, real):
    pos, mask = positions_and_mask(real)
    return model(model.embed(ids), pos, mask)[0]


def slow(model, ids, thought, real):
    pos, mask = positions_and_mask(real)
    x = model.embed(ids)
    for column in thought.any(dim=0).nonzero().flatten().tolist():
        hidden, _ = model(x, pos, mask)
        is_thought = thought[:, column, None, None]
        new = torch.where(is_thought, hidden[:, column - 1:column], x[:, column:column + 1])
        x = torch.cat([x[:, :column], new, x[:, column + 1:]], dim=1)
    return model(x, pos, mask)[0]


WAYS = {"floor": floor, "ours": think, "slow": slow}


# --------------------------------------------------------------------------------------------------
# Measuring

def start(args):
    """(model, Encoding, Examples) of the shape and the problems asked for."""
    torch.manual_seed(0)
    if args.data:
        examples = read_examples(args.data)
    else:
        examples = load_splits("generated", args.task, SIZES[args.task], False, 0, 1, 1,
                               max(args.batch_size, args.problems))[2]
    enc = gpt2_encoding() if args.tokenizer == "gpt2" else word_encoding(map(text_of, examples))
    shape = (1024, enc.n_vocab, args.n_layer, args.n_head, args.n_embd)
    return GPT(GPTConfig(*shape)).to(args.device), enc, examples


def batch_at(stage, args, enc, examples):
    """ids, targets, thought, real of the first problems, or of args.columns random tokens a row
    with ten to learn; `stage` says how many are thoughts."""
    if args.columns:
        ids = torch.randint(256, (args.batch_size, args.columns), device=args.device)
        targets, column = ids.clone(), torch.arange(args.columns, device=args.device)
        targets[:, :-10] = NO_LOSS
        thought = (column >= args.columns - 11 - stage) & (column < args.columns - 11)
        return ids, targets, thought.expand_as(ids), torch.ones_like(ids, dtype=torch.bool)
    c, marks = Curriculum(max_latent_stage=args.stages[-1]), markers_of(enc)
    sequences = [build(encode(example, enc), stage, c, marks)
                 for example in examples[:args.batch_size]]
    return collate(sequences, marks.thought, args.device)


def now(device):
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def step(way, model, batch, args):
    """Seconds of a forward and of a backward pass."""
    ids, targets, thought, real = batch
    model.zero_grad()
    began = now(args.device)
    device, half = torch.device(args.device).type, args.dtype == "bfloat16"
    with torch.autocast(device, torch.bfloat16, enabled=half):
        loss = supervised_loss(model, WAYS[way](model, ids, thought, real), targets)
    between = now(args.device)
    loss.backward()
    return between - began, now(args.device) - between


def peak_megabytes(way, stage, argv):
    """The most memory that one step adds, gradients included; in a process of its own."""
    command = [sys.executable, __file__, *argv, "--peak", way, str(stage)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak_of_this_process(way, stage, args):
    model, enc, examples = start(args)
    batch, cuda = batch_at(stage, args, enc, examples), torch.device(args.device).type == "cuda"

    def most():
        if cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        with open("/proc/self/status") as file:  # the kernel's high-water mark, in kB
            return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1]) / 2**10

    before = most()
    step(way, model, batch, args)
    return most() - before


def matmul_flops(args):
    """FLOP/s of a large matrix product here and now."""
    dtype = getattr(torch, args.dtype)
    a = torch.randn(2048, 2048, device=args.device, dtype=dtype)
    began = now(args.device)
    a @ a
    return 2 * 2048**3 / (now(args.device) - began)


def step_flops(model, batch):
    """FLOPs that a step needs: 2 forward and 4 backward for each weight and token, and attention's
    two products. Padding is work without use, and so is not counted."""
    _, targets, _, real = batch
    c = model.config
    weights = 12 * c.n_layer * c.n_embd**2
    lengths = real.sum(dim=1)
    attention = 12 * c.n_layer * c.n_embd * (lengths**2).sum().item()
    head = 6 * c.vocab_size * c.n_embd * (targets >= 0).sum().item()
    return 6 * weights * lengths.sum().item() + attention + head


# --------------------------------------------------------------------------------------------------
# The tables

def measure_steps(args, argv):
    """One line a stage: {thoughts, columns, <way>_ms, .., ours_to_floor, slow_to_ours, ..}."""
    model, enc, examples = start(args)
    lines = []
    for stage in args.stages:
        batch, ways = batch_at(stage, args, enc, examples), args.ways
        for way in ways:  # the first time costs more
            step(way, model, batch, args)
        rounds, reached = [], []
        for _ in range(args.rounds):
            rounds.append({way: step(way, model, batch, args) for way in ways})
            reached.append(matmul_flops(args))
        line = {"thoughts": batch[2].any(dim=0).sum().item(), "columns": batch[0].size(1)}
        for way in ways:
            forward, backward = (median(r[way][i] for r in rounds) for i in (0, 1))
            line |= {f"{way}_forward_ms": 1e3 * forward, f"{way}_backward_ms": 1e3 * backward,
                     f"{way}_ms": 1e3 * median(sum(r[way]) for r in rounds)}
            if args.memory and (args.device.startswith("cuda") or sys.platform == "linux"):
                line[f"{way}_mb"] = peak_megabytes(way, stage, argv)
        for way, other in (("ours", "floor"), ("slow", "ours")):
            if way in ways and other in ways:
                line[f"{way}_to_{other}"] = median(sum(r[way]) / sum(r[other]) for r in rounds)
        seconds = line["ours_ms"] / 1e3
        line |= {"tokens_per_s": batch[3].sum().item() / seconds,
                 "gflops": step_flops(model, batch) / seconds / 1e9,
                 "matmul_gflops": median(reached) / 1e9}
        lines.append(line)
    return lines


def measure_evaluation(args):
    """{ours, slow}: problems answered a second at the last stage; slow: a few, one by one."""
    model, enc, examples = start(args)
    model.eval()
    prompts = prompts_of(examples, args.stages[-1], Curriculum(), enc)
    prompts = sorted(prompts, key=len)[:args.problems]

    began = now(args.device)
    for i in range(0, len(prompts), args.eval_batch):
        answers(model, prompts[i:i + args.eval_batch], enc, args.new_tokens)
    ours = len(prompts) / (now(args.device) - began)

    some = prompts[::max(1, len(prompts) // 8)]
    began = now(args.device)
    for ids in some:
        answer_slowly(model, ids, enc, args.new_tokens)
    return {"ours": ours, "slow": len(some) / (now(args.device) - began)}


@torch.no_grad()
def answer_slowly(model, ids, enc, new_tokens):
    """One problem, with everything computed again for every thought and every new token."""
    for _ in range(new_tokens):
        hidden = slow(model, *collate_prompts(model, [ids], enc))
        token = model.lm_head(hidden[0, -1]).argmax().item()
        if token == enc.eot_token:
            break
        ids = [*ids, token]


def measure_scaling(args, argv):
    """{option: lines of measure_steps}, one option varied at a time around one shape."""
    around = ["--batch_size", "8", "--columns", "400", "--stages", "6", "--n_embd", "256"]
    varied = {"stages": (1, 2, 4, 8), "columns": (100, 200, 400, 800), "batch_size": (2, 4, 8, 16),
              "n_embd": (128, 256, 512)}
    table = {}
    for option, values in varied.items():
        for value in values:
            changed = [*argv, *around, f"--{option}", str(value), "--ways", "floor", "ours"]
            line = measure_steps(parse(changed), changed)[0]
            table.setdefault(option, []).append({option: value, **line})
    return table


def slope(xs, ys):
    """Of log y over log x: 1 where cost is proportional, 2 where it is quadratic."""
    return np.polyfit(np.log(xs), np.log(ys), 1)[0]


def print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths)) + " |")


def report_steps(lines, args):
    ways = args.ways
    header = ["thoughts", "columns", *(f"{way} ms" for way in ways),
              *(f"{way} MB" for way in ways if f"{way}_mb" in lines[0]), "ours/floor", "slow/ours",
              "tokens/s", "GFLOP/s", "matmul"]
    rows = []
    for line in lines:
        ratios = [line.get("ours_to_floor", math.nan), line.get("slow_to_ours", math.nan)]
        rows.append([f"{line['thoughts']}", f"{line['columns']}",
                     *(f"{line[f'{way}_ms']:.0f}" for way in ways),
                     *(f"{line[f'{way}_mb']:.0f}" for way in ways if f"{way}_mb" in line),
                     *(f"{ratio:.2f}" for ratio in ratios), f"{line['tokens_per_s']:.0f}",
                     f"{line['gflops']:.0f}", f"{line['matmul_gflops']:.0f}"])
    print_table(header, rows)


def report_scaling(table):
    for option, lines in table.items():
        print_table([option, "floor ms", "ours ms", "floor MB", "ours MB"],
                    [[str(line[option]), *(f"{line[name]:.0f}" for name in
                                           ("floor_ms", "ours_ms", "floor_mb", "ours_mb"))]
                     for line in lines])
        xs = [line[option] for line in lines]
        slopes = [slope(xs, [line[name] for line in lines]) for name in ("ours_ms", "ours_mb")]
        print("slope of log ms {:.2f}, of log MB {:.2f}\n".format(*slopes))


def parse(argv):
    parser = argparse.ArgumentParser(description="What a training step and an evaluation cost.")
    add = parser.add_argument
    add("--task", default="prosqa", choices=SIZES, help="generated at official size (%(default)s)")
    add("--data", help="a file with problems instead")
    add("--columns", type=int, help="no problems but rows of so many random tokens")
    add("--tokenizer", default="word", choices=["word", "gpt2"], help="(default: %(default)s)")
    add("--stages", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 6],
        help="a row for each (default: 0 .. 6); the last is taken for the last of the curriculum")
    for name, default in [("batch_size", 8), ("n_layer", 4), ("n_head", 4), ("n_embd", 256),
                          ("rounds", 7), ("problems", 64), ("eval_batch", 64), ("new_tokens", 10)]:
        add(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    add("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="(default: all three)")
    add("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it too")
    add("--device", default="cpu", help="(default: %(default)s)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="(%(default)s)")
    add("--scaling", action="store_true", help="how cost grows, instead")
    add("--json", action="store_true", help="print the numbers for a program to read")
    add("--peak", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    try:
        if "ours" not in args.ways:
            raise ValueError("--ways must name ours, as tokens/s and GFLOP/s are those of ours")
        if args.peak:
            print(peak_of_this_process(args.peak[0], int(args.peak[1]), args))
        elif args.scaling:
            table = measure_scaling(args, argv)
            print(json.dumps(table)) if args.json else report_scaling(table)
        else:
            lines, evaluation = measure_steps(args, argv), measure_evaluation(args)
            if args.json:
                print(json.dumps({"options": vars(args), "threads": torch.get_num_threads(),
                                  "torch": torch.__version__, "steps": lines,
                                  "evaluation": evaluation}))
                return
            report_steps(lines, args)
            print("\nevaluation: {ours:.1f} problems/s in batches, with a cache; "
                  "{slow:.2f} one by one, without".format(**evaluation))
    except ValueError as error:
        raise SystemExit(f"bench.py: {error}")


if __name__ == "__main__":
    main()
