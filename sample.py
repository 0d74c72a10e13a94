"""
Ask a trained model, and watch its thoughts.

    python sample.py --index 3                         a test problem, with its answer beside it
    python sample.py --question "Every .. dumpus?"     a question of your own, worded as in training
    python sample.py                                   question after question from the keyboard
A thought is shown as the tokens that the LM head finds nearest to it (paper, section 4).
"""
import argparse
import re
import sys
from pathlib import Path

import torch

from curriculum import n_thoughts, prompt
from data import collate, encode_question, end_of, markers_of
from harness.settings import Settings, count
from harness.start import load_run, pick_device, problems_that_fit
from model import generate, think
from tasks.record import UserError, is_correct, told


def prompts_of(examples, k, c, enc):
    """What the model is given of each Example of text, with k thoughts: lists of ids."""
    return [prompt(encode_question(e.question, enc), k, c, markers_of(enc)) for e in examples]


def collate_prompts(model, prompts, enc):
    """ids, is_thought, is_real (B, T), as for `generate`, of prompts (lists of ids)."""
    if (longest := max(map(len, prompts))) > model.config.block_size:
        raise UserError(f"{longest} tokens do not fit into block_size {model.config.block_size}")
    rows = [(ids, ids, len(ids)) for ids in prompts]  # all end before the same column: the last
    device, thought_id = next(model.parameters()).device, markers_of(enc).thought
    ids, _, is_thought, is_real, _ = collate(rows, thought_id, device)
    return ids, is_thought, is_real


def answers(model, prompts, enc, batch_size, max_new_tokens, on_thought_of=None):
    """What the model writes after each prompt (a list of ids): [(text, length in tokens), ..].
    on_thought_of: from the indices of a batch's prompts to an `on_thought` for `think`."""
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
    written = {}
    for i in range(0, len(order), batch_size):
        some = order[i:i + batch_size]
        batch = collate_prompts(model, [prompts[j] for j in some], enc)
        on_thought = on_thought_of(some) if on_thought_of else None
        rows = generate(model, *batch, max_new_tokens, end_of(enc), on_thought=on_thought)
        written.update(zip(some, [(enc.decode(row), len(row)) for row in rows]))
    return [written[i] for i in range(len(prompts))]


@torch.no_grad()
def thoughts_after(model, prompts, enc):
    """(prompts, k, C): the thoughts, as they are fed back, of prompts with k >= 0 each."""
    model.eval()
    seen = [model.wte.weight.new_empty(len(prompts), 0, model.config.n_embd)]  # for k = 0
    think(model, *collate_prompts(model, prompts, enc), start=1,
          on_thought=lambda k, thought: seen.append(thought[:, None]) or thought)  # None or thought
    return torch.cat(seen, dim=1)


def nearest_tokens(model, thought, enc, top):
    """[(token, probability), ..]: the `top` tokens that a thought (C,) is nearest to."""
    best = model.lm_head(thought).softmax(dim=-1).topk(top)
    return [(enc.decode([i]), p) for i, p in zip(best.indices.tolist(), best.values.tolist())]


def ask(model, enc, c, question, k, top, max_new_tokens, answer=None):
    """Print a question, its k thoughts, what the model writes and whether that is the answer."""
    print(f"question   {question}")
    words = {w.strip() for w in re.findall(enc._pat_str, question)} if enc.name == "words" else ()
    if unseen := [w for w in words if all(len(enc.encode_ordinary(s + w)) > 1 for s in ("", " "))]:
        print(f"note       words never seen in training: {', '.join(sorted(unseen))}")
    ids = prompt(encode_question(question, enc), k, c, markers_of(enc))
    if c.fill == "thought":
        thoughts, = thoughts_after(model, [ids], enc)  # (k, C)
        for i, thought in enumerate(thoughts, start=1):
            near = nearest_tokens(model, thought, enc, top)
            shown = "   ".join(f"{token!r} {p:.2f}" for token, p in near)
            print(f"thought {i}  norm {thought.norm():5.2f}   {shown}")
    (text, length), = answers(model, [ids], enc, 1, max_new_tokens)
    print(f"written    {text!r}")
    if answer is not None:
        print(f"answer     {answer}: {'right' if is_correct(text, answer) else 'wrong'}")
    print(f"cost       {length} tokens and {k} {c.fill or 'thought'}s\n", flush=True)


def show(model, examples, k, c, enc, batch_size, max_new_tokens):
    """Ask three problems; print and return the accuracy on all with another problem's thoughts."""
    print()
    for e in examples[:3]:
        ask(model, enc, c, e.question, k, 4, max_new_tokens, e.answer)
    prompts = prompts_of(examples, k, c, enc)
    others = torch.cat([thoughts_after(model, prompts[i:i + batch_size], enc) for i in
                        range(0, len(prompts), batch_size)]).roll(1, dims=0)  # (examples, k, C)
    written = answers(model, prompts, enc, batch_size, max_new_tokens,
                      lambda rows: lambda k, thought: others[rows, k])
    right = [is_correct(text, e.answer) for (text, _), e in zip(written, examples)]
    print(f"accuracy with the thoughts of another problem {sum(right) / len(right):.1%}")
    return sum(right) / len(right)


def ask_checkpoint(args):
    ckpt, model, enc = load_run(args.ckpt, pick_device(args.device))
    s, run = Settings(**ckpt["settings"]), ckpt["run"]
    c = s.curriculum()
    left = f", unfinished: {run['epoch']} of {s.epochs} epochs" if run["epoch"] < s.epochs else ""
    print(f"{s.method} on {s.task}, {s.data}, {run['step']} training steps{left}: {args.ckpt}\n")
    if not c.fill and args.n_thoughts is not None or c.fill != "thought" and args.top is not None:
        raise UserError(f"a model trained as {s.method} has no thoughts for --n_thoughts or --top")
    k = n_thoughts(run["stage"], c) if args.n_thoughts is None else args.n_thoughts
    top = 4 if args.top is None else min(args.top, enc.n_vocab)
    options = k, top, s.max_new_tokens if args.max_new_tokens is None else args.max_new_tokens
    if args.index is not None:
        test = problems_that_fit(s, model, enc)
        if args.index >= len(test):
            raise UserError(f"--index must be 0 to {len(test) - 1}")
        ask(model, enc, c, test[args.index].question, *options, test[args.index].answer)
    elif args.question is not None:
        ask(model, enc, c, args.question, *options)
    else:
        print("one question a line; an empty line ends", flush=True)
        while question := sys.stdin.readline().strip():
            try:
                ask(model, enc, c, question, *options)
            except UserError as error:  # it is too long
                print(f"{error}\n", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Ask a trained model, and watch its thoughts.")
    add = parser.add_argument
    one = parser.add_mutually_exclusive_group()
    shipped = str(Path(__file__).with_name("results") / "prosqa-balanced.pt")
    add("--ckpt", default=shipped, help="checkpoint (default: %(default)s)")
    one.add_argument("--index", type=count, help="which test problem to ask, from 0")
    one.add_argument("--question", help="your own question")
    add("--n_thoughts", type=count, help="instead of as many as the run's last stage has")
    add("--top", type=count, help="tokens shown for each thought (default: 4)")
    add("--max_new_tokens", type=count, help="most tokens written (default: as in training)")
    add("--device", default="auto", help="auto, cpu, cuda, mps .. (default: %(default)s)")
    args = parser.parse_args(argv)
    with told("sample.py"):
        ask_checkpoint(args)


if __name__ == "__main__":
    main()
