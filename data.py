"""
From problems to batches: reading, downloading, tokenizing, padding, scoring.

All tasks share one record, shown here as the official files hold it (ProsQA, shortened):

    {"question": "Every terpus is a brimpus. Tom is a terpus. .. Is Tom a lempus or scrompus?",
     "steps": ["Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus."],
     "answer": "Tom is a lempus."}

and one text, of which the model is given the first line (and its thoughts) and writes the others:

    Every terpus is a brimpus. Tom is a terpus. .. Is Tom a lempus or scrompus?
    Tom is a terpus.
    Every terpus is a brimpus.
    Every brimpus is a lempus.
    ### Tom is a lempus.<|endoftext|>

Two other formats are read as they are, a line of GSM8k-Aug and the ProntoQA generator's raw JSON:

    Out of 7 pens .. how many are left?||<<7-2=5>> <<5*3=15>> #### 15
    {"example1": {"test_example": {"question": .., "query": .., "chain_of_thought": [..], "answer": ..}}}

`python data.py prosqa out.json --n 1000` writes generated problems (tasks.py) for you to look at.
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
from tasks import SIZES, problems


class Example(NamedTuple):
    """A problem: as text (question, steps, answer), or tokenized (ids; a list of ids a step; ids)."""
    question: str | list
    steps: list
    answer: str | list


# ---------------------------------------------------------------------------------------------------
# Files

def read_examples(path):
    """The Examples of a file in one of the three formats; ValueError names the file, record and reason."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if text.startswith("version https://git-lfs"):
        raise ValueError(f"{path} is a Git-LFS pointer, not the data: run `git lfs pull` where it came from")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        if isinstance(records, dict):  # ProntoQA's generator
            records = [prontoqa_record(r) for r in records.values()]
    else:  # GSM8k-Aug
        records = [gsm8k_record(line) for line in text.splitlines() if line.count("||") == 1]
    examples = []
    for number, record in enumerate(records, start=1):
        try:
            question, steps, answer = record["question"], record["steps"], record["answer"]
            if not all(isinstance(part, str) for part in [question, answer, *steps]):
                raise TypeError
        except (TypeError, KeyError):
            raise ValueError(f"{path}, record {number}: needs question (text), steps (list of texts) "
                             "and answer (text)") from None
        examples.append(Example(question, [step for step in steps if step], answer))
    if not examples:
        raise ValueError(f"{path} holds no problems: JSON [{{question, steps, answer}}, ..] or lines "
                         "`question||<<a=b>> .. #### answer` are read")
    return examples


def gsm8k_record(line):
    """`question||<<a=b>> <<c=d>> #### answer` -> record."""
    question, rest = line.split("||")
    steps, _, answer = rest.partition("####")
    return {"question": question.strip(), "steps": steps.split(), "answer": answer.strip()}


def prontoqa_record(raw):
    """A raw record of ProntoQA's generator -> record: two sentences of the proof make a step, as in the
    official preprocessing/prontoqa.py, so that 5 hops make 6 steps. None if it is no such record."""
    try:
        raw = raw["test_example"]
        proof = raw["chain_of_thought"]
        steps = [" ".join(proof[i:i + 2]) for i in range(0, len(proof), 2)]
        return {"question": raw["question"] + " " + raw["query"], "steps": steps, "answer": raw["answer"]}
    except (TypeError, KeyError):
        return None


def load_splits(source, task, size, seed, n_train=None, n_valid=None, n_test=None):
    """(train, valid, test) of a task: train(epoch) -> Examples of that epoch, and two lists of Examples.

    source: "generated" or "balanced" (tasks.py; fresh training problems every epoch), "official" (the
    released files, downloaded once), a folder with train, valid and test as .json or .txt, or one file,
    split by position 90 : 2 : 8 as the official code splits ProntoQA. The counts cut the lists.
    """
    if source in ("generated", "balanced"):
        def generated(split, n, epoch=0):
            records = problems(task, n, seed, split, epoch, source == "balanced", **size)
            return [Example(r["question"], r["steps"], r["answer"]) for r in records]
        return (lambda epoch: generated("train", n_train, epoch),
                generated("valid", n_valid), generated("test", n_test))
    if source == "official":
        source = download_official(task)
    if os.path.isdir(source):
        train, valid, test = (read_examples(split_path(source, task, s)) for s in ("train", "valid", "test"))
    else:
        whole = read_examples(source)
        a, b = round(len(whole) * 0.90), round(len(whole) * 0.92)
        train, valid, test = whole[:a], whole[a:b], whole[b:]
        if not (train and valid and test):
            raise ValueError(f"{source} holds {len(whole)} problems, too few to split 90 : 2 : 8")
    train, valid, test = train[:n_train], valid[:n_valid], test[:n_test]
    return (lambda epoch: train), valid, test


def split_path(folder, task, split):
    names = [f"{split}.json", f"{split}.txt", f"{task}_{split}.json", f"{task}_{split}.txt"]
    for name in names:
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise ValueError(f"{folder} has none of {', '.join(names)}")


PROSQA_URL = "https://raw.githubusercontent.com/facebookresearch/coconut/main/data/prosqa_{}.json"
GSM8K_URL = "https://{}/da03/Internalize_CoT_Step_by_Step/main/data/gsm8k/{}.txt"
OFFICIAL = {  # file name: (url, SHA-256, or None where we have not seen the file)
    "prosqa_train.json": (PROSQA_URL.format("train"), None),
    "prosqa_valid.json": (PROSQA_URL.format("valid"),
                          "c74e0de24f1e90ec48b1a993e6458a7be4caeef3928f5104e3c2e45d689a5249"),
    "prosqa_test.json": (PROSQA_URL.format("test"), None),
    "gsm8k_train.txt": (GSM8K_URL.format("media.githubusercontent.com/media", "train"), None),
    "gsm8k_valid.txt": (GSM8K_URL.format("raw.githubusercontent.com", "valid"),
                        "04f9bddfe8ac4846571b1e2b612b289c95770b5012fdb34cc36a597b041afb87"),
    "gsm8k_test.txt": (GSM8K_URL.format("raw.githubusercontent.com", "test"), None),
}


def download_official(task, folder="data"):
    """The folder with the released files of a task, fetched on first use, with a progress bar."""
    if task == "prontoqa":
        raise ValueError(
            "ProntoQA has no released files: run its generator (github.com/asaparov/prontoqa at f0145b8, "
            "`run_experiment.py --model-name json --model-size dummy --ordering random --num-trials 10000 "
            "--few-shot-examples 0 --ontology fictional --min-hops 5 --max-hops 5 --hops-skip 1`) and pass "
            "`--data 5hop_0shot_random.json`")
    os.makedirs(folder, exist_ok=True)
    for name, (url, sha256) in OFFICIAL.items():
        path = os.path.join(folder, name)
        if name.startswith(task) and not os.path.exists(path):
            print(f"downloading {url}")
            try:
                torch.hub.download_url_to_file(url, path, hash_prefix=sha256)
            except (OSError, RuntimeError) as error:
                raise ValueError(f"could not download {url} ({error}): fetch it where there is a network, "
                                 f"put it at {path}, or use --data generated") from None
    return folder


# ---------------------------------------------------------------------------------------------------
# Tokens

END, SPECIAL = "<|endoftext|>", ["<|bot|>", "<|eot|>", "<|thought|>", "<|pause|>"]  # order of Markers
# A word with the space before it, one digit, one other character; GSM8k-Aug's brackets, the answer's mark.
WORDS = r"### |<<|>>| ?[^\W\d_]+|\d|\s|[^\s]"


def word_encoding(texts, max_words=8000):
    """A tiktoken.Encoding whose tokens are the words of these texts, with the 256 bytes below them.

    Any text encodes, and decodes to itself: a word that was not seen falls to pieces down to bytes.
    """
    counts = Counter(word for text in texts for word in re.findall(WORDS, text))
    words = sorted((w for w in counts if len(w.encode()) > 1), key=lambda w: (-counts[w], w))
    tokens = [bytes([b]) for b in range(256)] + [word.encode() for word in words[:max_words]]
    special = {name: len(tokens) + i for i, name in enumerate([END, *SPECIAL])}
    return tiktoken.Encoding("words", pat_str=WORDS, special_tokens=special,
                             mergeable_ranks={token: rank for rank, token in enumerate(tokens)})


def gpt2_encoding():
    """GPT-2's Encoding and the four special tokens, the first three at the official Coconut's ids."""
    try:
        gpt2 = tiktoken.get_encoding("gpt2")
    except Exception as error:  # whatever the network raises
        raise ValueError(f"cannot fetch GPT-2's vocabulary ({type(error).__name__}): set TIKTOKEN_CACHE_DIR "
                         "to a folder where tiktoken has it, or use --tokenizer word") from None
    special = {**gpt2._special_tokens, **{name: gpt2.n_vocab + i for i, name in enumerate(SPECIAL)}}
    return tiktoken.Encoding("gpt2", pat_str=gpt2._pat_str, mergeable_ranks=gpt2._mergeable_ranks,
                             special_tokens=special)


def encoding_state(enc):
    """What a checkpoint stores of an Encoding: tiktoken.Encoding(**state) makes it again."""
    return {"name": enc.name, "pat_str": enc._pat_str, "mergeable_ranks": enc._mergeable_ranks,
            "special_tokens": enc._special_tokens}


def markers(enc):
    return Markers(*(enc._special_tokens[name] for name in SPECIAL))


def text_of(example):
    """What a model reads and writes of an Example, without special tokens."""
    return "\n".join([example.question, *example.steps, "### " + example.answer])


def encode(example, enc):
    """Example of text -> Example of ids. Text that spells a special token never becomes one."""
    return Example(enc.encode_ordinary(example.question + "\n"),
                   [enc.encode_ordinary(step + "\n") for step in example.steps],
                   enc.encode_ordinary("### " + example.answer) + [enc._special_tokens[END]])


# ---------------------------------------------------------------------------------------------------
# Batches

def batches(sequences, size, rng, window=16):
    """All sequences, [(ids, targets), ..], in lists of `size`: in random order, yet of similar length
    within a list. Each `window` lists are sorted together, so that sorting does not order the epoch."""
    sequences = rng.sample(sequences, len(sequences))
    cut = []
    for i in range(0, len(sequences), window * size):
        near = sorted(sequences[i:i + window * size], key=lambda s: len(s[0]))
        near = [near[j:j + size] for j in range(0, len(near), size)]
        cut += rng.sample(near, len(near))
    return cut


def collate(sequences, thought_id, device="cpu"):
    """[(ids, targets), ..] -> ids, targets (B, T) long and thought, real (B, T) bool, as `think` takes them.

    First thoughts share a column S, so that one pass computes the k-th thought of all rows at once
    (official dataset.py:86-127 pads the same way). A row without thoughts starts at the left.

                              S
        .  .  Q  Q  Q  <bot>  T  T  <eot>  3  A  A         . is padding: real is False
        Q  Q  Q  Q  Q  <bot>  T  T  <eot>  3  A  .
        Q  Q  Q  <bot>  <eot>  1  2  3  A  A  .  .
    """
    firsts = [ids.index(thought_id) if thought_id in ids else None for ids, _ in sequences]
    S = max((first for first in firsts if first is not None), default=0)
    lefts = [0 if first is None else S - first for first in firsts]
    B, T = len(sequences), max(left + len(ids) for left, (ids, _) in zip(lefts, sequences))
    batch = torch.zeros(B, T, dtype=torch.long)
    targets = torch.full((B, T), NO_LOSS)
    real = torch.zeros(B, T, dtype=torch.bool)
    for row, (left, (ids, learned)) in enumerate(zip(lefts, sequences)):
        columns = slice(left, left + len(ids))
        batch[row, columns] = torch.tensor(ids)
        targets[row, columns] = torch.tensor(learned)
        real[row, columns] = True
    batch, targets, real = batch.to(device), targets.to(device), real.to(device)
    return batch, targets, (batch == thought_id) & real, real


# ---------------------------------------------------------------------------------------------------
# Scoring

def is_correct(completion, answer):
    """Whether the text after the last "#" is the answer, without commas: exact match, as official run.py:199."""
    said = completion.split("#")[-1].replace(",", "").strip()
    return "#" in completion and said == answer.replace(",", "").strip()


def main():
    parser = argparse.ArgumentParser(description="Write generated problems in the official format.")
    parser.add_argument("task", choices=SIZES)
    parser.add_argument("out", help="the JSON file to write")
    parser.add_argument("--n", type=int, default=1000, help="how many problems (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="train",
                        help="no problem of one split occurs in another (%(default)s)")
    parser.add_argument("--balanced", action="store_true", help="the variant without shortcuts")
    for task, sizes in SIZES.items():
        for name, default in sizes.items():
            parser.add_argument(f"--{name}", type=type(default), help=f"size of {task} ({default})")
    args = vars(parser.parse_args())
    size = {name: value for sizes in SIZES.values() for name in sizes
            if (value := args[name]) is not None}
    try:
        records = problems(args["task"], args["n"], args["seed"], args["split"],
                           balanced=args["balanced"], **size)
        with open(args["out"], "w", encoding="utf-8") as file:
            json.dump(records, file)
    except (ValueError, OSError) as error:
        raise SystemExit(f"data.py: {error}")
    print(f"wrote {len(records)} problems to {args['out']}; the first asks: {records[0]['question'][-60:]}")


if __name__ == "__main__":
    main()
