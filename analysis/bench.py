"""
What a training step and an evaluation cost, beside the slow version and the lower bound.

    python -m analysis.bench             ProsQA at official size, four layers of width 256
    python -m analysis.bench --n_layer 12 --n_embd 768 --n_head 12 --device cuda --dtype bfloat16
    python -m analysis.bench --columns 400 --stages 6 --n_embd 512      .. of any other shape

Three ways to compute the loss of one batch and its gradient are timed in turn, round after round:

    floor    `think` as if thoughts were ordinary tokens: two passes over the same columns
    ours     `think`: K + 1 passes that share a cache
    slow     the definition: K + 1 passes over everything, without a cache

A ratio is the median of the ratios within a round, so that it holds on a noisy machine too. Memory
is the most that a step adds to what was held before; on a CPU, where a process of its own measures
each, on Linux only.
"""
import argparse
import re
import sys
import time
from multiprocessing import get_context
from statistics import median

import torch

from analysis.runs import print_table
from curriculum import NO_LOSS, Curriculum, build
from data import collate, encode, end_of, gpt2_encoding, markers_of, text_of, word_encoding
from harness.start import pick_device
from model import GPT, GPTConfig, positions_and_mask, supervised_loss, think
from sample import answers, collate_prompts, prompts_of
from tasks import TASKS
from tasks.common import load_splits, read_examples
from tasks.record import UserError


def floor(model, ids, is_thought, is_real, start):
    return think(model, ids, torch.zeros_like(is_thought), is_real, start)[0]


def ours(model, ids, is_thought, is_real, start):
    return think(model, ids, is_thought, is_real, start)[0]


def slow(model, ids, is_thought, is_real, start):
    pos, mask = positions_and_mask(is_real)
    x = model.embed(ids)
    for column in is_thought.any(dim=0).nonzero().flatten().tolist():
        hidden, _ = model(x, pos, mask)
        thought = model.thought(hidden[:, column - 1])  # (B, C)
        new = torch.where(is_thought[:, column, None], thought, x[:, column])
        x = torch.cat([x[:, :column], new[:, None], x[:, column + 1:]], dim=1)
    return model(x, pos, mask)[0][:, start - 1:]


WAYS = {"floor": floor, "ours": ours, "slow": slow}  # each returns columns start - 1 .. T - 1


def start(args):
    """(model, Encoding, Examples) of the shape and the problems asked for."""
    torch.manual_seed(0)
    n = max(args.batch_size, args.problems)
    examples = (read_examples(args.data) if args.data else
                load_splits("generated", args.task, size={}, grow=0, seed=0, n_train=1, n_valid=1,
                            n_test=n)[2])
    enc = gpt2_encoding() if args.tokenizer == "gpt2" else word_encoding(map(text_of, examples))
    shape = (1024, enc.n_vocab, args.n_layer, args.n_head, args.n_embd)
    return GPT(GPTConfig(*shape)).to(args.device), enc, examples


def batch_at(stage, args, enc, examples):
    """ids, targets, is_thought, is_real, start of the first problems, or of args.columns random
    tokens a row with ten to learn; `stage` says how many are thoughts."""
    if args.columns:
        ids = torch.randint(256, (args.batch_size, args.columns), device=args.device)
        targets, column = ids.clone(), torch.arange(args.columns, device=args.device)
        targets[:, :-10] = NO_LOSS
        start = args.columns - 11 - stage
        is_thought = (column >= start) & (column < start + stage)
        is_real = torch.ones_like(ids, dtype=torch.bool)
        return ids, targets, is_thought.expand_as(ids), is_real, start
    c, marks = Curriculum(max_latent_stage=max(args.stages)), markers_of(enc)
    rows = [build(encode(example, enc), stage, c, marks) for example in examples[:args.batch_size]]
    return collate(rows, marks.thought, args.device)


def now(device):
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def step(way, model, batch, args):
    """Seconds of a forward and a backward pass."""
    ids, targets, is_thought, is_real, start = batch
    model.zero_grad()
    began = now(args.device)
    device, half = torch.device(args.device).type, args.dtype == "bfloat16"
    with torch.autocast(device, torch.bfloat16, enabled=half):
        hidden = WAYS[way](model, ids, is_thought, is_real, start)
        loss = supervised_loss(model, hidden, targets)
    loss.backward()
    return now(args.device) - began


def peak_megabytes(way, stage, args):
    """The most memory that one step adds to what was held before, gradients included. On a CPU it
    holds for the first call in a process."""
    model, enc, examples = start(args)
    batch = batch_at(stage, args, enc, examples)
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(args.device)  # to what is held now
    before = most_megabytes(args.device)
    step(way, model, batch, args)
    return most_megabytes(args.device) - before


def most_megabytes(device):
    """The most memory that this process has ever held; on a GPU since its last reset."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with open("/proc/self/status") as file:  # the kernel's high-water mark, in kB
        return int(re.search(r"VmHWM:\s*(\d+)", file.read())[1]) / 2**10


def memory_of_ways(stage, args):
    """{way MB: the most memory of its step}"""
    if args.device.startswith("cuda"):
        return {f"{way} MB": peak_megabytes(way, stage, args) for way in WAYS}
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # one process, one task
        return {f"{way} MB": pool.apply(peak_megabytes, (way, stage, args)) for way in WAYS}


def matmul_flops(args):
    """FLOP/s of a large matrix product here and now."""
    n = 2048 if args.device == "cpu" else 8192
    a = torch.randn(n, n, device=args.device, dtype=getattr(torch, args.dtype))
    began = now(args.device)
    a @ a
    return 2 * n**3 / (now(args.device) - began)


def step_flops(model, batch):
    """FLOPs that a step needs: 2 forward and 4 backward for each weight and token, and attention's
    two products. Padding is work without use, and so is not counted."""
    _, targets, _, is_real, start = batch
    config = model.config
    lengths = is_real.sum(dim=1)
    wanted = is_real[:, start - 1:].sum(dim=1)  # states that the last layer computes
    full = (config.n_layer - 1) * lengths + wanted
    dense = 12 * full + 2 * (lengths - wanted)  # the last layer's keys and values
    attention = 2 * lengths * full
    head = config.vocab_size * (targets >= 0).sum(dim=1)
    return 6 * config.n_embd * (config.n_embd * dense + attention + head).sum().item()


def measure_steps(args):
    """A {name: value} for each stage, in the order in which it is printed."""
    model, enc, examples = start(args)
    lines = []
    for stage in args.stages:
        batch = batch_at(stage, args, enc, examples)
        for way in WAYS:  # the first time costs more
            step(way, model, batch, args)
        rounds, reached = [], []
        for _ in range(args.rounds):
            rounds.append({way: step(way, model, batch, args) for way in WAYS})
            reached.append(matmul_flops(args))
        line = {"thoughts": batch[2].any(dim=0).sum().item(), "columns": batch[0].size(1)}
        for way in WAYS:
            line[f"{way} ms"] = 1e3 * median(r[way] for r in rounds)
        if args.memory and (args.device.startswith("cuda") or sys.platform == "linux"):
            line |= memory_of_ways(stage, args)
        for way, other in (("ours", "floor"), ("slow", "ours")):
            line[f"{way}/{other}"] = median(r[way] / r[other] for r in rounds)
        seconds = line["ours ms"] / 1e3
        lines.append(line | {"tokens per s": batch[3].sum().item() / seconds,
                             "GFLOP per s": step_flops(model, batch) / seconds / 1e9,
                             "matmul's": median(reached) / 1e9})
    return lines


def measure_evaluation(args):
    """{ours, slow}: problems answered a second at the last stage; slow: a few, one by one."""
    model, enc, examples = start(args)
    prompts = prompts_of(examples[:args.problems], max(args.stages), Curriculum(), enc)

    began = now(args.device)
    answers(model, prompts, enc, args.eval_batch, args.new_tokens)
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
        hidden = slow(model, *collate_prompts(model, [ids], enc), start=1)
        token = model.lm_head(hidden[0, -1]).argmax().item()
        if token == end_of(enc):
            break
        ids = [*ids, token]


def parse(argv):
    parser = argparse.ArgumentParser(prog="python -m analysis.bench",
                                     description="What a training step and an evaluation cost.")
    add = parser.add_argument
    add("--task", default="prosqa", choices=TASKS, help="generated at official size (%(default)s)")
    add("--data", help="a file with problems instead")
    add("--columns", type=int, help="no problems but rows of so many random tokens")
    add("--tokenizer", default="word", choices=["word", "gpt2"], help="(default: %(default)s)")
    add("--stages", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5, 6],
        help="a row for each (default: 0 .. 6)")
    for name, default in [("batch_size", 8), ("n_layer", 4), ("n_head", 4), ("n_embd", 256),
                          ("rounds", 7), ("problems", 64), ("eval_batch", 64), ("new_tokens", 10)]:
        add(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    add("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure it too")
    add("--device", default="cpu", help="auto, cpu, cuda, mps .. (default: %(default)s)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="(%(default)s)")
    return parser.parse_args(argv)


def check(args):
    """Raise UserError for numbers that nothing can be measured with."""
    for name in ("batch_size", "n_layer", "n_head", "n_embd", "rounds", "problems", "eval_batch",
                 "new_tokens"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be more than 0")
    if args.n_embd % args.n_head or args.n_embd % 2:
        raise UserError("--n_embd must be even, and a multiple of --n_head")
    most = max(args.stages)
    if min(args.stages) < 0 or args.columns and not most + 12 <= args.columns <= 1024:
        raise UserError("--stages must be 0 or more, and --columns at least 12 more, up to 1024")


def main(argv=None):
    args = parse(argv)
    try:
        check(args)
        args.device = str(pick_device(args.device))
        lines, evaluation = measure_steps(args), measure_evaluation(args)
        print_table(lines[0], [[f"{value:{'.2f' if '/' in name else '.0f'}}"
                                for name, value in line.items()] for line in lines])
        print("\nevaluation: {ours:.1f} problems/s in batches, with a cache; "
              "{slow:.2f} one by one, without".format(**evaluation))
    except UserError as error:
        raise SystemExit(f"bench: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
