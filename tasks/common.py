"""
What all tasks share: drawing problems, reading files of problems, splitting them, guessing.

A task's file draws a problem in two halves. `draw` makes its skeleton (a graph, a theory, a story);
`word` puts names and words to it, again and again until the problem falls into the split that was
asked for (see `split_of`). So no two splits share a problem, whatever the seeds and the sizes.
"""
import hashlib
import json
import os
import random
import re
import zlib
from http.client import HTTPException
from statistics import mean
from urllib.request import urlopen

from tasks import TASKS, tasks_with
from tasks.record import Example, UserError, is_correct, refuse_pointer, write_whole

GENERATED = ("generated", "balanced")  # what --data calls problems that are drawn
SPLITS = ("valid", "test", "train", "train")  # by checksum: half of all problems are for training


def problems(task, n, seed, split="train", epoch=0, balanced=False, grow=0, **size):
    """Return n records. Equal arguments give equal records on every machine.

    epoch: each has new problems. balanced: without the shortcuts of the official problems. grow: in
    the first so many epochs some are easier, fewer and fewer of them. size: the task's SIZES, where
    they are not the official ones. Raises UserError for what the task does not have."""
    check(task, n, split, balanced, grow, size)
    module = TASKS[task]
    options = {name: some.official for name, some in module.SIZES.items()} | size
    if balanced:
        options["balanced"] = True
    if grow:
        options["growth"] = min(1, epoch / grow)
    rng, records = random.Random(f"{task} {seed} {split} {epoch}"), []
    while len(records) < n:
        skeleton = module.draw(rng, **options)
        for _ in range(100):  # nearly always a few are enough; but a skeleton may have one wording
            record = module.word(rng, *skeleton)
            if split_of(record["question"]) == split:
                records.append(record)
                break
    return records


def check(task, n, split, balanced, grow, size):
    """Raise UserError for arguments that `problems` cannot serve."""
    if n < 1:
        raise UserError(f"n must be 1 or more (got {n})")
    if split not in SPLITS:
        raise UserError(f"split must be train, valid or test (got {split!r})")
    for name, wanted, able in (("balanced", balanced, tasks_with("BALANCED")),
                               ("grow", grow, tasks_with("GROWS"))):
        if wanted and task not in able:
            raise UserError(f"{name} must be off for {task}: only {' and '.join(able)} have it")
    sizes = TASKS[task].SIZES
    for name, value in size.items():
        if name not in sizes:
            raise UserError(f"{name} is no size of {task}, which has {', '.join(sizes)}")
        if isinstance(value, float) or value not in sizes[name].allowed:
            raise UserError(f"{name} must be {sizes[name].text} (got {value!r})")


def split_of(question):
    """Return the one split that a question may occur in. Its facts decide, in any order, and not
    what its last sentence asks about them. Every rewording draws a new checksum."""
    *facts, asked = question.split(". ")
    return SPLITS[zlib.crc32(" ".join(sorted(facts or [asked])).encode()) % len(SPLITS)]


def read_examples(path):
    """Return the Examples of a file: records {question, steps, answer} as a JSON list or a line
    each, a JSON object of ProntoQA's raw problems, or GSM8k-Aug's lines, of which those without
    just one || are left out. Raises UserError that names the file, the record and the reason.
    Empty steps are dropped."""
    text = read_text(path)
    lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), start=1)
             if line.strip()]
    records = read_json(path, text, lines) if text.lstrip()[:1] in ("[", "{") else None
    if records is None:
        records = [(where, TASKS["gsm8k"].read_line(line, f"{path}, {where}"))
                   for where, line in lines if line.count("||") == 1]
        if 0 < len(records) < len(lines):
            print(f"left out {len(lines) - len(records)} lines of {path}, which are no problems")
    if not records:
        raise UserError(f"{path} holds no problems, neither [{{question, steps, answer}}, ..] "
                        "nor lines `question||<<a=b>> .. #### answer`")
    return [to_example(record, f"{path}, {where}") for where, record in records]


def json_of(text, where):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON: {error}") from None


def read_json(path, text, lines):
    """Return [(where it stands, record), ..] of a file of JSON, or of JSON in every line; None if
    it is neither, but its first line may be GSM8k-Aug's."""
    try:
        data = json_of(text, path)
    except UserError:
        if lines[0][1].count("||") == 1:
            return None
        if len(lines) == 1 or not lines[0][1].rstrip().endswith("}"):
            raise
        return [(where, json_of(line, f"{path}, {where}")) for where, line in lines]
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    if isinstance(data, dict) and "question" not in data:
        return [(key, TASKS["prontoqa"].read_raw(raw)) for key, raw in data.items()]
    records = data if isinstance(data, list) else [data]
    return [(f"record {i}", record) for i, record in enumerate(records, start=1)]


def read_text(path):
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot read {path}: it is no file")  # a device might never end
    try:
        refuse_pointer(path)
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: no text in UTF-8, or packed ({error})") from None


def to_example(record, where):
    try:
        question, steps, answer = record["question"], record["steps"], record["answer"]
    except (TypeError, KeyError):
        raise UserError(f"{where} lacks question, steps or answer") from None
    texts = [question, answer, *(steps if isinstance(steps, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: question and answer must be texts, steps a list of texts")
    if not (question.strip() and answer.strip()):
        raise UserError(f"{where} has an empty question or answer")
    if "#" in answer:
        raise UserError(f"{where} has a # in its answer, which is where an answer would begin")
    if re.search(r"[\ud800-\udfff]", "".join(texts)):
        raise UserError(f"{where} has half a character (a lone surrogate)")
    return Example(question, [step for step in steps if step.strip()], answer)


def load_splits(source, task, size, grow, seed, n_train, n_valid, n_test):
    """Return (train, valid, test): a function from epoch to list of Examples, and two such lists.

    source: "generated" or "balanced" (see `problems`; `grow` is for training, which has new ones in
    every epoch), or where to read them (see `read_splits`). n_*: how many; 0 is all that were read.
    Training gets no question that is in the other two splits."""
    if source in GENERATED:
        def generate(split, n, epoch=0, grow=0):
            records = problems(task, n, seed, split, epoch, source == "balanced", grow, **size)
            return [Example(r["question"], r["steps"], r["answer"]) for r in records]
        return (lambda epoch: generate("train", n_train, epoch, grow),
                generate("valid", n_valid), generate("test", n_test))
    train, valid, test = read_splits(source, task)
    test = unrepeated(test, [], "the test split")[:n_test or None]
    valid = unrepeated(valid, test, "the validation split")[:n_valid or None]
    held_out = {example.question for example in valid + test}
    unseen = [example for example in train if example.question not in held_out]
    if len(unseen) < len(train):
        print(f"left out {len(train) - len(unseen)} of {len(train)} problems for training, as they "
              "are among those for validation or test too")
    if not (unseen and valid):
        raise UserError(f"{source} has no problem for training, or none for validation, that is "
                        "not tested on")
    return (lambda epoch: unseen[:n_train or None]), valid, test


def read_splits(source, task):
    """Return three lists of Examples: train, valid, test. source: "official" (downloaded once), a
    folder with a file for each, or one file, split as officially ProntoQA is: 90 : 2 : 8."""
    if source == "official":
        return [read_examples(path) for path in download_official(task)]
    if os.path.isdir(source):
        return [read_examples(find_split(source, task, s)) for s in ("train", "valid", "test")]
    whole = read_examples(source)
    a = round(0.90 * len(whole))
    b = max(a + 1, round(0.92 * len(whole)))
    if not 0 < a < b < len(whole):
        raise UserError(f"{source} has {len(whole)} problems, too few to split 90 : 2 : 8")
    return whole[:a], whole[a:b], whole[b:]


def find_split(folder, task, split):
    other = {"valid": ["val", "validation", "dev"]}.get(split, [])
    starts = [f"{task}_", *["gsm_"] * (task == "gsm8k"), ""]
    names = [start + word + end for start in starts for word in (split, *other)
             for end in (".json", ".jsonl", ".txt")]
    for path in (os.path.join(folder, name) for name in names):
        if os.path.exists(path):
            return path
    raise UserError(f"{folder} has no {split} split, such as {split}.json, .jsonl or .txt")


def unrepeated(examples, others, where):
    """Return the Examples whose question is not among the others', each once; print how many go."""
    first = {example.question: example for example in reversed(examples)}
    for other in others:
        first.pop(other.question, None)
    if len(first) < len(examples):
        print(f"left out {len(examples) - len(first)} of {len(examples)} problems of {where}, "
              "as they repeat others" + " or are in the test split" * bool(others))
    return [example for example in examples if first.get(example.question) is example]


def download_official(task, folder="data"):
    """Return the paths of a task's released files: train, valid, test. Those that are not there are
    fetched. Raises UserError if there are none, if the network fails, or for another file."""
    if not hasattr(TASKS[task], "OFFICIAL"):
        raise UserError(getattr(TASKS[task], "NO_OFFICIAL", f"no files of {task} were released"))
    paths = []
    for name, (url, digest) in TASKS[task].OFFICIAL.items():
        paths.append(os.path.join(folder, name))
        try:
            os.makedirs(folder, exist_ok=True)
            if fetched := not os.path.exists(paths[-1]):
                print(f"downloading {url}")
            with urlopen(url) if fetched else open(paths[-1], "rb") as file:
                content = file.read()
        except (OSError, HTTPException) as error:
            raise UserError(f"could not download {url} ({type(error).__name__} {error}): put the "
                            f"file at {paths[-1]} yourself, or use --data generated") from None
        blob = b"blob %d\0" % len(content) + content  # what git takes the SHA-1 of
        if digest not in (hashlib.sha256(content).hexdigest(), hashlib.sha1(blob).hexdigest()):
            raise UserError(f"{url if fetched else paths[-1]} is not the file that was released: "
                            "its checksum is another one")
        if fetched:
            write_whole(paths[-1], "wb", lambda file: file.write(content))
    return paths


def points(task, examples):
    """Return {shortcut: [1 if it bets on the answer, 0 if on another, 0.5 if on none, ..]} of
    Examples of text; {} if the task has no shortcuts, or a question is not worded as the task's."""
    if not hasattr(TASKS[task], "guesses"):
        return {}
    try:
        bets = [TASKS[task].guesses(example.question) for example in examples]
    except UserError:
        return {}
    return {name: [0.5 if bet[name] is None else float(is_correct("### " + bet[name], e.answer))
                   for bet, e in zip(bets, examples)] for name in bets[0]}


def shortcut_accuracy(task, examples):
    """Return {shortcut: accuracy} on Examples of text; no bet counts as half right."""
    return {name: mean(values) for name, values in points(task, examples).items()}


def checksum(examples):
    """Return a short text that is the same for the same questions in the same order."""
    return f"{zlib.crc32(repr([example.question for example in examples]).encode()):08x}"
