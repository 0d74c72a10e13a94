"""
Ask a trained model, and watch its thoughts.

    python sample.py --index 3                        a test problem, with the right answer beside it
    python sample.py --question "Every .. wooden."    a question of your own, worded as in training
    python sample.py                                  question after question, from the keyboard
    python sample.py --init gpt2 --question "Once"    no thoughts: GPT-2 goes on with plain text

A thought is no token, but the LM head says which tokens it is nearest to (paper section 4):

    {EXAMPLE}
"""
import argparse
import os
import sys
import time

import torch

from curriculum import METHODS, n_thoughts, prompt
from data import END, collate, gpt2_encoding, is_correct, load_splits, markers
from model import GPT, think
from settings import Settings
from train import answers, load_run, pick_device


@torch.no_grad()
def nearest_tokens(model, ids, enc, top):
    """For each thought of a prompt (a list of ids): its norm, and its `top` [(token, probability), ..]."""
    ids, _, thought, real = collate([(ids, ids)], markers(enc).thought, model.wte.weight.device)
    hidden = think(model, ids, thought, real)[0]  # (T, C)
    columns = thought[0].nonzero().flatten() - 1  # a thought is the hidden state of the column before
    probabilities = model.lm_head(hidden[columns]).softmax(dim=-1)  # (K, V)
    best = probabilities.topk(top)
    return [(hidden[column].norm().item(), [(enc.decode([i]), p) for i, p in zip(tokens, values)])
            for column, tokens, values in zip(columns, best.indices.tolist(), best.values.tolist())]


def ask(model, enc, c, question, k, top, max_new_tokens, answer=None):
    """Print a question, its k thoughts, what the model writes, and whether that is right."""
    print(f"question   {question}")
    ids = prompt(enc.encode_ordinary(question + "\n"), k, c, markers(enc))
    if METHODS[c.method].fill == "thought":
        for number, (norm, tokens) in enumerate(nearest_tokens(model, ids, enc, top), start=1):
            shown = "   ".join(f"{token!r} {p:.2f}" for token, p in tokens)
            print(f"thought {number}  norm {norm:5.1f}   {shown}")
    began = time.perf_counter()
    (text,), (length,) = answers(model, [ids], enc, max_new_tokens)
    seconds = time.perf_counter() - began
    print(f"written    {text}")
    if answer is not None:
        print(f"answer     {answer}: {'right' if is_correct(text, answer) else 'wrong'}")
    print(f"           {length} tokens and {k} {METHODS[c.method].fill or 'thought'}s, "
          f"{seconds:.2f} s\n", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Ask a trained model, and watch its thoughts.")
    parser.add_argument("--ckpt", default="out/prontoqa-coconut/ckpt.pt", help="(%(default)s)")
    parser.add_argument("--init", help="plain text instead, by gpt2 .. gpt2-xl or a file of weights")
    parser.add_argument("--index", type=int, help="number of a test problem, from 0")
    parser.add_argument("--question", help="your own question")
    parser.add_argument("--n_thoughts", type=int, help="instead of as many as in the last stage trained")
    parser.add_argument("--top", type=int, default=4, help="tokens shown for a thought (%(default)s)")
    parser.add_argument("--max_new_tokens", type=int, help="most tokens written")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps .. (%(default)s)")
    args = parser.parse_args(argv)
    try:
        (complete_text if args.init else ask_all)(args)
    except ValueError as error:
        raise SystemExit(f"sample.py: {error}")


def ask_all(args):
    if not os.path.exists(args.ckpt):
        raise ValueError(f"no checkpoint at {args.ckpt}: `python train.py --task prontoqa` makes one")
    ckpt, model, enc = load_run(args.ckpt, pick_device(args.device))
    model.eval()
    s = Settings(**ckpt["settings"])
    c = s.curriculum()
    k = n_thoughts(ckpt["run"]["stage"], c) if args.n_thoughts is None else args.n_thoughts
    if k < 0 or args.top < 1:
        raise ValueError("--n_thoughts must be 0 or more, and --top 1 or more")
    if args.n_thoughts and not METHODS[c.method].fill:
        raise ValueError(f"--n_thoughts: this model was trained as {s.method}, without thoughts")
    options = (k, min(args.top, enc.n_vocab), args.max_new_tokens or s.max_new_tokens)

    if args.index is not None:
        test = load_splits(s.data, s.task, s.size(), s.seed, 1, 1, s.n_test)[2]
        if not 0 <= args.index < len(test):
            raise ValueError(f"--index must be 0 to {len(test) - 1}")
        ask(model, enc, c, test[args.index].question, *options, test[args.index].answer)
    elif args.question is not None:
        ask(model, enc, c, args.question, *options)
    else:
        print("a question a line, an empty line to end", flush=True)
        while question := sys.stdin.readline().strip():
            ask(model, enc, c, question, *options)


def complete_text(args):
    if args.question is None:
        raise ValueError("--init needs a --question, the text to go on with")
    enc = gpt2_encoding()
    model = GPT.from_pretrained(args.init).to(pick_device(args.device)).eval()
    ids = enc.encode_ordinary(args.question) or [enc._special_tokens[END]]
    (text,), _ = answers(model, [ids], enc, args.max_new_tokens or 100)
    print(args.question + text)


if __name__ == "__main__":
    main()
