"""
From problems to batches: text, tokens, padding.

A problem is one record in the official format (this one shortened):

    {"question": "Every terpus is a brimpus. Tom is a terpus. .. Is Tom a lempus or scrompus?",
     "steps": ["Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus."],
     "answer": "Tom is a lempus."}

and becomes one text, of which the model is given the first line and writes what its stage has left:

    Every terpus is a brimpus. Tom is a terpus. .. Is Tom a lempus or scrompus?
    Tom is a terpus.
    Every terpus is a brimpus.
    Every brimpus is a lempus.
    ### Tom is a lempus.<|endoftext|>

Steps that are bare words share a line, " Tom terpus brimpus lempus### Tom is a lempus.", so that
each of the words is one token of the word tokenizer.

Where problems come from, files or generators, is told in tasks/. To look at generated ones:
    python data.py prosqa problems.json
"""
import argparse
import json
import re
from collections import Counter

import tiktoken
import torch

from curriculum import NO_LOSS, Markers, last_stage, n_thoughts, prompt
from tasks import SIZES, TASKS, tasks_with
from tasks.common import problems
from tasks.record import Example, UserError, told, write_whole

# --------------------------------------------------------------------------------------------------
# Tokens

END = "<|endoftext|>"
SPECIAL = ["<|bot|>", "<|eot|>", "<|thought|>", "<|pause|>"]  # in the order of Markers
# The seam of two rules (`. Every`), the answer's mark, GSM8k-Aug's brackets, a verb with article or
# "not" (so that subject and property stand at a fixed distance), a word with the space before it, a
# digit, anything else.
WORDS = r"\. Every\b|### |<<|>>| (?:is|are)(?: not| an?)?\b| ?[^\W\d_]+|\d|\s|[^\s]"


def word_encoding(texts, max_words=8000):
    """A tiktoken.Encoding: ids 0 to 255 are bytes, the next the words of these texts. Any text
    encodes, and decodes to itself; an unseen word becomes smaller pieces."""
    counts = Counter(word for text in texts for word in re.findall(WORDS, text))
    words = sorted((w for w in counts if len(w.encode()) > 1), key=lambda w: (-counts[w], w))
    tokens = [bytes([b]) for b in range(256)] + [word.encode() for word in words[:max_words]]
    special = {name: len(tokens) + i for i, name in enumerate([END, *SPECIAL])}
    return tiktoken.Encoding("words", pat_str=WORDS, special_tokens=special,
                             mergeable_ranks={token: rank for rank, token in enumerate(tokens)})


def gpt2_encoding():
    """GPT-2's Encoding plus the special tokens, the first three at the official Coconut's ids."""
    try:
        gpt2 = tiktoken.get_encoding("gpt2")
    except Exception as error:  # of whatever type the network raises
        raise UserError(f"cannot fetch GPT-2's vocabulary ({type(error).__name__}): name a folder "
                        "that has it in TIKTOKEN_CACHE_DIR") from None
    special = {name: gpt2.n_vocab + i for i, name in enumerate(SPECIAL)}
    return tiktoken.Encoding("gpt2", pat_str=gpt2._pat_str, mergeable_ranks=gpt2._mergeable_ranks,
                             special_tokens=gpt2._special_tokens | special)


def encoding_state(enc):
    """What a checkpoint keeps of an Encoding: tiktoken.Encoding(**state) is the same again."""
    if not isinstance(enc, tiktoken.Encoding):  # that of hacks/huggingface
        return enc.state
    return {"name": enc.name, "pat_str": enc._pat_str, "mergeable_ranks": enc._mergeable_ranks,
            "special_tokens": enc._special_tokens}


def markers_of(enc):
    return Markers(*(enc._special_tokens[name] for name in SPECIAL))


def end_of(enc):
    """The id of END, which ends an answer: tiktoken's eot, but not our <|eot|>."""
    return enc.eot_token


def lines_of(steps):
    """A step has a line of its own; but where all steps of a problem are bare words they share one,
    which makes each of them one token of the word tokenizer."""
    bare = all(step.replace(" ", "").isalpha() for step in steps)
    return [" " + step if bare else step + "\n" for step in steps]


def text_of(example):
    return "".join([example.question + "\n", *lines_of(example.steps), "### " + example.answer])


def encode_question(question, enc):
    return enc.encode_ordinary(question + "\n")


def encode(example, enc):
    """An Example of ids. No text becomes a special token, not even one that spells it."""
    return Example(encode_question(example.question, enc),
                   [enc.encode_ordinary(line) for line in lines_of(example.steps)],
                   enc.encode_ordinary("### " + example.answer) + [end_of(enc)])


def fitting(examples, enc, c, block_size):
    """The Examples of text that surely fit into the block: with all steps and the most thoughts of
    Curriculum c. Says how many it leaves out. UserError if none is left."""
    most = len(prompt([], n_thoughts(last_stage(c), c), c, markers_of(enc)))

    def length(example):
        question, steps, answer = encode(example, enc)
        return len(question) + most + sum(map(len, steps)) + len(answer)

    kept = [example for example in examples if length(example) <= block_size]
    if not kept:
        raise UserError(f"no problem fits into {block_size} tokens: a model from scratch can have "
                        "more by --block_size")
    if len(kept) < len(examples):
        print(f"left out {len(examples) - len(kept)} of {len(examples)} problems: they need more "
              f"than the {block_size} tokens of --block_size")
    return kept


# --------------------------------------------------------------------------------------------------
# Batches

def batches(examples, size, rng, window=16):
    """All Examples in lists of `size`: shuffled, sorted by the question's length within each
    `window` lists, so that a list needs little padding, and those lists shuffled again."""
    examples, lists = rng.sample(examples, len(examples)), []
    for i in range(0, len(examples), window * size):
        near = sorted(examples[i:i + window * size], key=lambda example: len(example.question))
        near = [near[j:j + size] for j in range(0, len(near), size)]
        lists += rng.sample(near, len(near))
    return lists


def collate(rows, thought_id, device="cpu"):
    """[(ids, targets, start), ..], as from `build` -> ids, targets (B, T) long; is_thought, is_real
    (B, T) bool; and one start for all rows, as for `think`.

    All questions end before one column, `start`. So one forward pass reads them all, and the k-th
    pass makes the k-th thought of every row (official dataset.py:86-127).

                               start
         .  .  Q  Q  Q  <bot>  T  T  <eot>  3  A  A        . is padding: is_real is False
         Q  Q  Q  Q  Q  <bot>  T  T  <eot>  3  A  .
         .  .  .  Q  Q  <bot>  <eot>  1  2  3  A  A        stage mixing puts such rows in a batch"""
    start = max(row_start for _, _, row_start in rows)
    T = max(start - row_start + len(ids) for ids, _, row_start in rows)
    batch, targets = torch.zeros(len(rows), T).long(), torch.full((len(rows), T), NO_LOSS)
    is_real = torch.zeros(len(rows), T, dtype=torch.bool)
    for row, (ids, row_targets, row_start) in enumerate(rows):
        columns = slice(start - row_start, start - row_start + len(ids))
        batch[row, columns] = torch.tensor(ids)
        targets[row, columns] = torch.tensor(row_targets)
        is_real[row, columns] = True
    tensors = batch, targets, (batch == thought_id) & is_real, is_real
    if torch.device(device).type == "cuda":  # pinned memory lets the CPU go on while it is copied
        tensors = [tensor.pin_memory() for tensor in tensors]
    return *(tensor.to(device, non_blocking=True) for tensor in tensors), start


def count_targets(rows):
    """The number of supervised tokens in [(ids, targets, start), ..]."""
    return sum(target != NO_LOSS for _, targets, _ in rows for target in targets)


# --------------------------------------------------------------------------------------------------
# The command line

def main(argv=None):
    parser = argparse.ArgumentParser(description="Write generated problems in the official format.")
    add = parser.add_argument
    add("task", choices=TASKS)
    add("out", help="JSON file to write")
    add("--n", type=int, default=1000, help="number of problems (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--split", choices=["train", "valid", "test"], default="train",
        help="no problem is in two splits (default: %(default)s)")
    add("--balanced", action="store_true",
        help=f"{', '.join(tasks_with('BALANCED'))}: without shortcuts")
    for name, (size, tasks) in SIZES.items():
        add(f"--{name}", type=type(size.official),
            help=f"{', '.join(tasks)}: {size.text} (default: {size.official})")
    args = parser.parse_args(argv)
    size = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    with told("data.py"):
        write_whole(args.out, "w", lambda file: json.dump(problems(
            args.task, args.n, args.seed, args.split, balanced=args.balanced, **size), file))
        print(f"wrote {args.n} problems to {args.out}")


if __name__ == "__main__":
    main()
