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
import zlib

import torch

from curriculum import build, n_thoughts, prompt
from data import collate, count_learned, encode, encode_question, end_of, markers_of
from harness.gpt2 import load_gpt2
from harness.ranks import share, total
from harness.settings import Settings
from harness.start import load_run, pick_device, problems_that_fit
from model import first_predicting, generate, supervised_loss, think
from tasks.common import MOST_CHARACTERS
from tasks.record import is_correct

OWN = "out/prontoqa-coconut/ckpt.pt"
SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results", "prosqa.pt")

# --------------------------------------------------------------------------------------------------
# Answers

def collate_prompts(model, prompts, enc):
    """ids, thought, real (B, T), as for `think`, of prompts (lists of ids)."""
    sequences = [(ids, ids) for ids in prompts]  # nothing is learned: any targets will do
    ids, _, thought, real = collate(sequences, markers_of(enc).thought, model.wte.weight.device)
    return ids, thought, real


def answers(model, prompts, enc, max_new_tokens, edit=None):
    """What the model writes after each prompt (a list of ids): [(text, length in tokens), ..]."""
    batch = collate_prompts(model, prompts, enc)
    rows = generate(model, *batch, max_new_tokens, end_of(enc), edit)
    return [(enc.decode(row), len(row)) for row in rows]


def prompts_of(examples, k, c, enc):
    """What the model is given of each Example of text, with k thoughts: lists of ids."""
    return [prompt(encode_question(example.question, enc), k, c, markers_of(enc))
            for example in examples]


@torch.no_grad()
def written_answers(model, prompts, enc, batch_size, max_new_tokens, edit_of=None):
    """`answers` to any number of prompts, a batch at a time, in the order of the prompts.

    edit_of: a function that takes the indices of a batch's prompts and returns an `edit` of their
    thoughts, as for `think`."""
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
    written = {}
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        edit = edit_of(rows) if edit_of else None
        batch = [prompts[i] for i in rows]
        written.update(zip(rows, answers(model, batch, enc, max_new_tokens, edit)))
    return [written[i] for i in range(len(prompts))]


def checksum(examples):
    """A short text that is the same for the same questions, to see that two runs had the same."""
    return f"{zlib.crc32(repr([example.question for example in examples]).encode()):08x}"


@torch.no_grad()
def evaluate(model, examples, stage, c, enc, batch_size, max_new_tokens):
    """{loss, accuracy, tokens, seconds, n, right, problems} of Examples at a stage of Curriculum c.

    loss: nats per supervised token. tokens: written ones plus thoughts, per problem, as in the
    paper's Table 1, without markers, pauses and end token. seconds: of writing, per problem. right:
    a 1 or 0 for each problem, as text. problems: a checksum of all questions. Official
    run.py:440-480, there one problem at a time."""
    model.eval()
    n, marks = len(examples), markers_of(enc)
    order = share(sorted(range(n), key=lambda i: len(examples[i].question)))
    mine = [examples[i] for i in order]  # this rank's share, shortest first
    nats = learned = 0
    for i in range(0, len(mine), batch_size):
        sequences = [build(encode(e, enc), stage, c, marks) for e in mine[i:i + batch_size]]
        nats += batch_loss(model, sequences, marks.thought).item()
        learned += count_learned(sequences)

    began = time.perf_counter()
    prompts = prompts_of(mine, n_thoughts(stage, c), c, enc)
    written = written_answers(model, prompts, enc, batch_size, max_new_tokens)
    seconds = time.perf_counter() - began
    right = [0] * n  # of all problems: `total` adds the other ranks
    for i, (text, _) in zip(order, written):
        right[i] = int(is_correct(text, examples[i].answer))
    tokens = sum(length for _, length in written)
    if c.fill == "thought":
        tokens += n_thoughts(stage, c) * len(mine)
    nats, learned, tokens, seconds, *right = total([nats, learned, tokens, seconds, *right],
                                                   model.wte.weight.device)
    return {"loss": nats / learned, "accuracy": sum(right) / n, "tokens": tokens / n,
            "seconds": seconds / n, "n": n, "problems": checksum(examples),
            "right": "".join(str(int(one)) for one in right)}


def batch_loss(model, sequences, thought_id):
    """The loss of [(ids, targets), ..] in nats, summed over the supervised tokens."""
    ids, targets, thought, real = collate(sequences, thought_id, model.wte.weight.device)
    hidden = think(model, ids, thought, real, since=first_predicting(targets))
    return supervised_loss(model, hidden, targets)


# --------------------------------------------------------------------------------------------------
# Thoughts

@torch.no_grad()
def thoughts_after(model, prompts, enc):
    """(prompts, k, C): the thoughts of prompts that have k each; k may be 0."""
    thoughts = {}

    def note(k, value):
        thoughts[k] = value
        return value

    think(model, *collate_prompts(model, prompts, enc), edit=note)
    none = model.wte.weight.new_empty(len(prompts), 0, model.config.n_embd)
    return torch.stack([*thoughts.values()], dim=1) if thoughts else none


@torch.no_grad()
def nearest_tokens(model, thoughts, enc, top):
    """[[(token, probability), ..], ..]: for each of the thoughts (k, C) its `top` tokens."""
    best = model.lm_head(thoughts).softmax(dim=-1).topk(top)  # (k, top)
    return [[(enc.decode([token]), p) for token, p in zip(tokens, probabilities)]
            for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist())]


# --------------------------------------------------------------------------------------------------
# The command line

def refuse_if_long(question):
    """Raise ValueError for a text that would take hours to cut into tokens."""
    if len(question) > MOST_CHARACTERS:
        raise ValueError(f"a question of {len(question)} characters is too long: ask it in "
                         f"{MOST_CHARACTERS}")


def ask(model, enc, c, question, k, top, max_new_tokens, answer=None):
    """Print a question, its k thoughts, what the model writes and whether that is the answer."""
    refuse_if_long(question)
    print(f"question   {question}")
    ids = prompt(encode_question(question, enc), k, c, markers_of(enc))
    fill = c.fill or "thought"
    if fill == "thought":
        thoughts, = thoughts_after(model, [ids], enc)  # (k, C)
        norms, near = thoughts.norm(dim=-1).tolist(), nearest_tokens(model, thoughts, enc, top)
        for number, (norm, tokens) in enumerate(zip(norms, near), start=1):
            shown = "   ".join(f"{token!r} {p:.2f}" for token, p in tokens)
            print(f"thought {number}  norm {norm:5.2f}   {shown}")
    began = time.perf_counter()
    (text, length), = answers(model, [ids], enc, max_new_tokens)
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
    print(f"{s.method} on {s.task}, after {ckpt['run']['step']} training steps: {path}\n")
    c = s.curriculum()
    k = n_thoughts(ckpt["run"]["stage"], c)
    if args.n_thoughts is not None:
        if not c.fill:
            raise ValueError(f"--n_thoughts: the model was trained as {s.method}, without thoughts")
        k = args.n_thoughts
    if args.top is not None and c.fill != "thought":
        raise ValueError(f"--top: the model was trained as {s.method}, without thoughts to look at")
    most = s.max_new_tokens if args.max_new_tokens is None else args.max_new_tokens
    top = 4 if args.top is None else min(args.top, enc.n_vocab)
    options = (k, top, most)

    if args.index is not None:
        test = problems_that_fit(s, model, enc)
        if args.index >= len(test):
            raise ValueError(f"--index must be 0 to {len(test) - 1}")
        ask(model, enc, c, test[args.index].question, *options, test[args.index].answer)
    elif args.question is not None:
        ask(model, enc, c, args.question, *options)
    else:
        print("one question a line; an empty line ends", flush=True)
        while question := sys.stdin.readline().strip():
            try:
                ask(model, enc, c, question, *options)
            except ValueError as error:  # a question that is too long
                print(f"{error}\n", flush=True)


def continue_text(args):
    """Go on with --question as plain text, by a GPT-2 that knows no thoughts."""
    if not args.question or any(x is not None for x in (args.ckpt, args.n_thoughts, args.top)):
        raise ValueError("--init needs a --question, the text to go on with, and takes neither "
                         "--ckpt nor, as there are no thoughts, --n_thoughts and --top")
    refuse_if_long(args.question)
    model, enc = load_gpt2(args.init)
    model = model.to(pick_device(args.device)).eval()
    most = 100 if args.max_new_tokens is None else args.max_new_tokens
    (text, _), = answers(model, [enc.encode_ordinary(args.question)], enc, most)
    print(args.question + text)


def count(text):
    if int(text) < 0:
        raise ValueError
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Ask a trained model, and watch its thoughts.")
    add = parser.add_argument
    add("--ckpt", help=f"checkpoint (default: {OWN}, and before there is one results/prosqa.pt)")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--index", type=count, help="which test problem to ask, from 0")
    one.add_argument("--question", help="your own question")
    add("--n_thoughts", type=count, help="instead of as many as the run's last stage has")
    add("--top", type=count, help="tokens shown for each thought (default: 4)")
    add("--max_new_tokens", type=count, help="most tokens written (default: as in training)")
    add("--init", help="no checkpoint but gpt2 .. gpt2-xl or a file like theirs: plain text")
    add("--device", default="auto", help="auto, cpu, cuda, mps .. (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if args.init:
            continue_text(args)
        else:
            ask_checkpoint(args)
    except ValueError as error:
        raise SystemExit(f"sample.py: {error}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
