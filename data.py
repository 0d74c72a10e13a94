"""
From problems to batches: files, tokens, padding, scoring.

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

Two more formats are read as they are: GSM8k-Aug's lines, and the JSON of ProntoQA's generator.

    Out of 7 pens 2 are lost. ..||<<7-2=5>> <<5*3=15>> #### 15
    {"example1": {"test_example": {"question": .., "query": .., "chain_of_thought": ..}}, ..}

`python data.py prosqa problems.json` writes generated problems (tasks.py), for you to look at.
"""
import argparse
import json
import os
import re
from collections import Counter
from typing import NamedTuple

import tiktoken
import torch

from curriculum import NO_LOSS, Markers
from files import download
from tasks import GENERATED, LIMITS, SIZES, problems


class Example(NamedTuple):
    """A problem, as text or, once tokenized, with a list of ids for each text."""
    question: str | list
    steps: list
    answer: str | list


# --------------------------------------------------------------------------------------------------
# Files

def read_examples(path):
    """The Examples of a file in any of the three formats. ValueError: file, record and reason.

    Steps without text are dropped. Of GSM8k-Aug's files, lines without just one || are no problems.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"cannot read {path}: it is no file")  # a device might never end
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: no text in UTF-8, or packed ({error})") from None
    if text.startswith("version https://git-lfs"):
        raise ValueError(f"{path} is a Git-LFS pointer: run `git lfs pull` where it comes from")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        if isinstance(records, dict):
            records = [prontoqa_record(raw) for raw in records.values()]
    else:
        lines = [line for line in text.split("\n") if line.strip()]
        records = [gsm8k_record(line) for line in lines if line.count("||") == 1]
        if 0 < len(records) < len(lines):
            print(f"left out {len(lines) - len(records)} lines of {path}, which are no problems")
    if not records:
        raise ValueError(f"{path} holds no problems, neither [{{question, steps, answer}}, ..] "
                         "nor lines `question||<<a=b>> .. #### answer`")
    return [to_example(record, f"{path}, record {i}") for i, record in enumerate(records, start=1)]


MOST_CHARACTERS = 100_000  # of a text: more would take hours to cut into tokens


def to_example(record, where):
    try:
        question, steps, answer = record["question"], record["steps"], record["answer"]
    except (TypeError, KeyError):
        raise ValueError(f"{where} lacks question, steps or answer") from None
    if not isinstance(steps, list) or not all(isinstance(text, str)
                                              for text in (question, answer, *steps)):
        raise ValueError(f"{where}: question and answer must be texts, steps a list of texts")
    if not (question.strip() and answer.strip()):
        raise ValueError(f"{where} has an empty question or answer")
    if "#" in answer:
        raise ValueError(f"{where} has a # in its answer, which is where an answer would begin")
    for text in (question, answer, *steps):
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{where} has a text of {len(text)} characters, above the limit of "
                             f"{MOST_CHARACTERS}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} has half a character (a lone surrogate)") from None
    return Example(question, [step for step in steps if step.strip()], answer)


def gsm8k_record(line):
    question, rest = line.split("||")
    steps, _, answer = rest.partition("####")
    return {"question": question.strip(), "steps": steps.split(), "answer": answer.strip()}


def prontoqa_record(raw):
    """Two sentences of the proof make a step, as in the official preprocessing/prontoqa.py: 5 hops
    are 11 sentences, so 6 steps."""
    try:
        raw = raw["test_example"]
        proof = raw["chain_of_thought"]
        return {"question": raw["question"] + " " + raw["query"], "answer": raw["answer"],
                "steps": [" ".join(proof[i:i + 2]) for i in range(0, len(proof), 2)]}
    except (TypeError, KeyError):
        return None


def load_splits(source, task, size, mixed_size, seed, n_train, n_valid, n_test):
    """(train, valid, test): a function from epoch to list of Examples, and two such lists.

    source: "generated" or "balanced" (see tasks.py; new problems every epoch, for training also of
    mixed size), "official" (the released files, downloaded once), a folder with train, valid and
    test files, or a single file, split by position as officially ProntoQA is, 90 : 2 : 8. n_* cut
    what files hold, if not 0. No question of the other two is left in the training split. Raises
    ValueError for what cannot be had.
    """
    if source in GENERATED:
        def generate(split, n, epoch=0, mixed_size=False):
            balanced = source == "balanced"
            records = problems(task, n, seed, split, epoch, balanced, mixed_size, **size)
            return [Example(r["question"], r["steps"], r["answer"]) for r in records]
        return (lambda epoch: generate("train", n_train, epoch, mixed_size),
                generate("valid", n_valid), generate("test", n_test))
    if source == "official":
        source = download_official(task)
    if os.path.isdir(source):
        parts = [read_examples(find_split(source, task, s)) for s in ("train", "valid", "test")]
    else:
        whole = read_examples(source)
        a = round(0.90 * len(whole))
        b = max(a + 1, round(0.92 * len(whole)))
        parts = [whole[:a], whole[a:b], whole[b:]]
        if not all(parts):
            raise ValueError(f"{source} has {len(whole)} problems, too few to split 90 : 2 : 8")
    train, valid, test = parts[0], parts[1][:n_valid or None], parts[2][:n_test or None]
    held_out = {example.question for example in valid + test}
    unseen = [example for example in train if example.question not in held_out]
    if len(unseen) < len(train):
        print(f"left out {len(train) - len(unseen)} of {len(train)} problems for training, as they "
              "are among those for validation or test too")
    if not unseen:
        raise ValueError(f"{source} has no problem for training that is not tested on")
    return (lambda epoch: unseen[:n_train or None]), valid, test


def find_split(folder, task, split):
    names = [prefix + split + end for prefix in ("", f"{task}_") for end in (".json", ".txt")]
    for name in names:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise ValueError(f"{folder} has no {split} split: one of {', '.join(names)}")


COCONUT = "https://raw.githubusercontent.com/facebookresearch/coconut/main/data/"
ICOT = "githubusercontent.com/{}da03/Internalize_CoT_Step_by_Step/main/data/gsm8k/"
OFFICIAL = {  # file: (url, SHA-256, or None where it is not known to us)
    "prosqa_train.json": (COCONUT + "prosqa_train.json", None),
    "prosqa_valid.json": (COCONUT + "prosqa_valid.json",
                          "c74e0de24f1e90ec48b1a993e6458a7be4caeef3928f5104e3c2e45d689a5249"),
    "prosqa_test.json": (COCONUT + "prosqa_test.json", None),
    "gsm8k_train.txt": ("https://media." + ICOT.format("media/") + "train.txt", None),  # Git-LFS
    "gsm8k_valid.txt": ("https://raw." + ICOT.format("") + "valid.txt",
                        "04f9bddfe8ac4846571b1e2b612b289c95770b5012fdb34cc36a597b041afb87"),
    "gsm8k_test.txt": ("https://raw." + ICOT.format("") + "test.txt", None),
}


def download_official(task, folder="data"):
    """The folder with a task's released files, fetched on first use."""
    if task == "prontoqa":
        raise ValueError(
            "no ProntoQA files were released: run github.com/asaparov/prontoqa at f0145b8, `python "
            "run_experiment.py --model-name json --model-size dummy --ordering random --num-trials "
            "10000 --few-shot-examples 0 --ontology fictional --min-hops 5 --max-hops 5 "
            "--hops-skip 1`, and pass what it writes: --data 5hop_0shot_random.json")
    for name, (url, sha256) in OFFICIAL.items():
        path = os.path.join(folder, name)
        if name.startswith(task) and not os.path.exists(path):
            try:
                digest = download(url, path, sha256)
            except OSError as error:
                raise ValueError(f"could not download {url} ({error}): put the file at {path} "
                                 "yourself, or use --data generated") from None
            if sha256 is None:
                print(f"unchecked, SHA-256 {digest}")
    return folder


# --------------------------------------------------------------------------------------------------
# Tokens

END, SPECIAL = "<|endoftext|>", ["<|bot|>", "<|eot|>", "<|thought|>", "<|pause|>"]  # as Markers
# The answer's mark, GSM8k-Aug's brackets, a verb with its article or "not" (so that subject and
# property stand at a fixed distance), a word with the space before it, a digit, anything else.
WORDS = r"### |<<|>>| (?:is|are)(?: not| an?)?\b| ?[^\W\d_]+|\d|\s|[^\s]"


def word_encoding(texts, max_words=8000):
    """A tiktoken.Encoding made of the words in these texts, with the 256 bytes below them: any text
    encodes, and decodes to itself; an unseen word falls into smaller pieces."""
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
        raise ValueError(f"cannot fetch GPT-2's vocabulary ({type(error).__name__}): name a folder "
                         "that has it in TIKTOKEN_CACHE_DIR, or use --tokenizer word") from None
    special = {name: gpt2.n_vocab + i for i, name in enumerate(SPECIAL)}
    return tiktoken.Encoding("gpt2", pat_str=gpt2._pat_str, mergeable_ranks=gpt2._mergeable_ranks,
                             special_tokens=gpt2._special_tokens | special)


def encoding_state(enc):
    """What a checkpoint keeps of an Encoding: tiktoken.Encoding(**state) is the same again."""
    return {"name": enc.name, "pat_str": enc._pat_str, "mergeable_ranks": enc._mergeable_ranks,
            "special_tokens": enc._special_tokens}


def markers_of(enc):
    return Markers(*(enc._special_tokens[name] for name in SPECIAL))


def line_of(step):
    """A sentence or an equation has a line of its own; but bare words go on in the line, which
    makes each of them one token of the word tokenizer."""
    return " " + step if step.replace(" ", "").isalpha() else step + "\n"


def text_of(example):
    return "".join([example.question + "\n", *map(line_of, example.steps), "### " + example.answer])


def encode_question(question, enc):
    return enc.encode_ordinary(question + "\n")


def encode(example, enc):
    """An Example of ids. No text becomes a special token, not even one that spells it."""
    return Example(encode_question(example.question, enc),
                   [enc.encode_ordinary(line_of(step)) for step in example.steps],
                   enc.encode_ordinary("### " + example.answer) + [enc.eot_token])


# --------------------------------------------------------------------------------------------------
# Batches

def batches(sequences, size, rng, window=16):
    """All (ids, targets) in lists of `size`, in random order, yet of similar length within a list:
    only what falls into the same `window` lists is sorted by length."""
    sequences, lists = rng.sample(sequences, len(sequences)), []
    for i in range(0, len(sequences), window * size):
        near = sorted(sequences[i:i + window * size], key=lambda sequence: len(sequence[0]))
        near = [near[j:j + size] for j in range(0, len(near), size)]
        lists += rng.sample(near, len(near))
    return lists


def collate(sequences, thought_id, device="cpu"):
    """[(ids, targets), ..] -> ids, targets (B, T) long; thought, real (B, T) bool, as for `think`.

    All first thoughts stand in one column S, so that one forward pass computes the k-th thought of
    every row (official dataset.py:86-127). Rows without a thought start at the left.

                               S
         .  .  Q  Q  Q  <bot>  T  T  <eot>  3  A  A        . is padding: real is False
         Q  Q  Q  Q  Q  <bot>  T  T  <eot>  3  A  .
         Q  Q  Q  <bot>  <eot>  1  2  3  A  A  .  .        stage mixing puts such rows in a batch
    """
    firsts = [ids.index(thought_id) if thought_id in ids else None for ids, _ in sequences]
    S = max((first for first in firsts if first is not None), default=0)
    lefts = [0 if first is None else S - first for first in firsts]
    B, T = len(sequences), max(left + len(ids) for left, (ids, _) in zip(lefts, sequences))
    batch, real = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.bool)
    targets = torch.full((B, T), NO_LOSS)
    for row, (left, (ids, learned)) in enumerate(zip(lefts, sequences)):
        columns = slice(left, left + len(ids))
        batch[row, columns] = torch.tensor(ids)
        targets[row, columns] = torch.tensor(learned)
        real[row, columns] = True
    tensors = batch, targets, (batch == thought_id) & real, real
    if torch.device(device).type == "cuda":  # the copies then need not wait, nor be waited for
        return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)
    return tuple(tensor.to(device) for tensor in tensors)


# --------------------------------------------------------------------------------------------------
# Scoring

def is_correct(written, answer):
    """Whether the text after the last "#" is the answer, commas aside. Official run.py:199, 469."""
    final = written.split("#")[-1].replace(",", "").strip()
    return "#" in written and final == answer.replace(",", "").strip()


def main(argv=None):
    parser = argparse.ArgumentParser(description="Write generated problems in the official format.")
    add = parser.add_argument
    add("task", choices=SIZES)
    add("out", help="JSON file to write")
    add("--n", type=int, default=1000, help="number of problems (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--split", choices=["train", "valid", "test"], default="train",
        help="no problem is in two splits (default: %(default)s)")
    add("--balanced", action="store_true", help="ProsQA and ProntoQA without shortcuts")
    for name, (_, text) in LIMITS.items():
        tasks = [task for task in SIZES if name in SIZES[task]]
        default = SIZES[tasks[0]][name]
        add(f"--{name}", type=type(default), help=f"{', '.join(tasks)}: {text} ({default})")
    args = parser.parse_args(argv)
    size = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    try:
        records = problems(args.task, args.n, args.seed, args.split, balanced=args.balanced, **size)
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(records, file)
    except (ValueError, OSError) as error:
        raise SystemExit(f"data.py: {error}")
    print(f"wrote {len(records)} problems to {args.out}")


if __name__ == "__main__":
    main()
