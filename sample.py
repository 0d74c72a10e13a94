"""
Ask a trained model, and watch its thoughts.

    python sample.py --index 3                         a test problem, with its answer beside it
    python sample.py --question "Every .. red."        a question of your own, worded as in training
    python sample.py                                   question after question from the keyboard
    python sample.py --init gpt2 --question "Once"     no thoughts: GPT-2 goes on with plain text

--ckpt names the run. A thought is not a token, yet the LM head says which tokens it is nearest to
(paper, section 4); those are shown with their probabilities, and the norm of the thought.
"""
import argparse
import os
import sys
import time

from curriculum import METHODS, n_thoughts, prompt
from data import encode_question, gpt2_encoding, is_correct, markers_of
from evaluate import answers
from model import GPT
from runs import load_run, pick_device, tested_problems
from settings import Settings
from thoughts import nearest_tokens, thoughts_after

OWN = "out/prontoqa-coconut/ckpt.pt"
SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "prosqa.pt")


def ask(model, enc, c, question, k, top, max_new_tokens, answer=None):
    """Print a question, its k thoughts, what the model writes and whether that is the answer."""
    print(f"question   {question}")
    ids = prompt(encode_question(question, enc), k, c, markers_of(enc))
    fill = METHODS[c.method].fill or "thought"
    if fill == "thought":
        thoughts, = thoughts_after(model, [ids], enc)  # (k, C)
        norms, near = thoughts.norm(dim=-1).tolist(), nearest_tokens(model, thoughts, enc, top)
        for number, (norm, tokens) in enumerate(zip(norms, near), start=1):
            shown = "   ".join(f"{token!r} {p:.2f}" for token, p in tokens)
            print(f"thought {number}  norm {norm:5.2f}   {shown}")
    began = time.perf_counter()
    (text,), (length,) = answers(model, [ids], enc, max_new_tokens)
    seconds = time.perf_counter() - began
    print(f"written    {text!r}")
    if answer is not None:
        print(f"answer     {answer}: {'right' if is_correct(text, answer) else 'wrong'}")
    print(f"cost       {length} tokens and {k} {fill}{'' if k == 1 else 's'}, {seconds:.2f} s\n",
          flush=True)


def ask_checkpoint(args):
    """Answer the test problem, the question, or the questions from the keyboard."""
    path = args.ckpt or (OWN if os.path.exists(OWN) else SHIPPED)
    if not os.path.exists(path):
        raise ValueError(f"no checkpoint {path}: `python train.py --task prontoqa` makes one, "
                         "in the folder that it names at its end")
    ckpt, model, enc = load_run(path, pick_device(args.device))
    model.eval()
    s = Settings(**ckpt["settings"])
    print(f"{s.method} on {s.task}, after {ckpt['run']['step']} steps: {path}\n")
    c = s.curriculum()
    k = n_thoughts(ckpt["run"]["stage"], c)
    if args.n_thoughts is not None:
        if not METHODS[s.method].fill:
            raise ValueError(f"--n_thoughts: the model was trained as {s.method}, without thoughts")
        k = args.n_thoughts
    most = s.max_new_tokens if args.max_new_tokens is None else args.max_new_tokens
    options = (k, min(args.top, enc.n_vocab), most)

    if args.index is not None:
        test = tested_problems(s)
        if args.index >= len(test):
            raise ValueError(f"--index must be 0 to {len(test) - 1}")
        ask(model, enc, c, test[args.index].question, *options, test[args.index].answer)
    elif args.question is not None:
        ask(model, enc, c, args.question, *options)
    else:
        print("one question a line; an empty line ends", flush=True)
        while question := sys.stdin.readline().strip():
            ask(model, enc, c, question, *options)


def complete_text(args):
    """Go on with --question as plain text, by a GPT-2 that knows no thoughts."""
    if not args.question or args.n_thoughts is not None:
        raise ValueError("--init needs a --question, the text to go on with, and has no thoughts")
    enc = gpt2_encoding()
    model = GPT.from_pretrained(args.init).to(pick_device(args.device)).eval()
    ids = enc.encode_ordinary(args.question)
    most = 100 if args.max_new_tokens is None else args.max_new_tokens
    (text,), _ = answers(model, [ids], enc, most)
    print(args.question + text)


def count(text):
    if int(text) < 0:
        raise ValueError
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Ask a trained model, and watch its thoughts.")
    add = parser.add_argument
    add("--ckpt", help=f"of a run (default: {OWN}, and before there is one results/prosqa.pt)")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--index", type=count, help="which test problem to ask, from 0")
    one.add_argument("--question", help="your own question")
    add("--n_thoughts", type=count, help="instead of as many as the run's last stage has")
    add("--top", type=count, default=4, help="tokens shown for each thought (default: %(default)s)")
    add("--max_new_tokens", type=count, help="most tokens written (default: as in training)")
    add("--init", help="no checkpoint but gpt2 .. gpt2-xl or a file like theirs: plain text")
    add("--device", default="auto", help="auto, cpu, cuda, mps .. (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        (complete_text if args.init else ask_checkpoint)(args)
    except ValueError as error:
        raise SystemExit(f"sample.py: {error}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
