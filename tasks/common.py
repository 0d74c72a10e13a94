"""
What all tasks share: drawing problems, reading files of them, and splitting.

A generator has two halves. `draw` makes the skeleton of a problem (a graph, a theory, a story);
`word` puts names and words to it, again and again until the problem falls into the split that was
asked for (see `split_of`). So at no seed and no size do two splits share a problem.
"""
import hashlib
import json
import os
import random
import zlib
from http.client import HTTPException
from statistics import mean
from tempfile import TemporaryDirectory
from urllib.request import urlretrieve

from tasks import TASKS, tasks_with
from tasks.record import Example, UserError, is_correct

GENERATED = ("generated", "balanced")  # what --data calls problems that are drawn
SPLITS = ("valid", "test", "train", "train")  # by checksum: half of all problems are for training


def problems(task, n, seed, split="train", epoch=0, balanced=False, grow=0, **size):
    """Return n records. Equal arguments give equal records on every machine.

    size: the task's SIZES, where they are not the official ones. epoch: gives fresh problems of the
    same split. balanced: without the shortcuts of the official ones. grow: easier ones, too, in so
    many epochs fewer and fewer: growth 0 is only the easiest, growth 1 every size. Raises
    UserError, in a sentence, for arguments that are unknown or out of range."""
    check(task, n, split, balanced, grow, size)
    module = TASKS[task]
    options = {name: some.official for name, some in module.SIZES.items()} | size
    if balanced:
        options["balanced"] = True
    if grow:
        options["growth"] = min(1, epoch / grow)
    rng = random.Random(f"{task} {seed} {split} {epoch}")
    return [draw_one(module, rng, options, split) for _ in range(n)]


def draw_one(module, rng, options, split):
    """The record of one new problem of a task, of the split asked for."""
    while True:
        skeleton = module.draw(rng, **options)
        for _ in range(100):  # nearly always a few are enough; but a skeleton may have one wording
            record = module.word(rng, *skeleton)
            if split_of(record["question"]) == split:
                return record


def split_of(question):
    """Return the one split a question may occur in. Its facts decide, in any order, and not what is
    asked about them in its last sentence. Every rewording draws a new checksum."""
    *facts, asked = question.split(". ")
    return SPLITS[zlib.crc32(" ".join(sorted(facts or [asked])).encode()) % len(SPLITS)]


def check(task, n, split, balanced, grow, size):
    """Raise UserError for arguments that `problems` cannot serve."""
    if task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)} (got {task!r})")
    if n < 1:
        raise UserError(f"n must be 1 or more (got {n})")
    if split not in SPLITS:
        raise UserError(f"split must be train, valid or test (got {split!r})")
    sizes = TASKS[task].SIZES
    for wanted, name, has_it in ((balanced, "balanced", "BALANCED"), (grow, "grow", "GROWS")):
        if wanted and task not in tasks_with(has_it):
            raise UserError(f"{name} must be off for {task}: only "
                            f"{' and '.join(tasks_with(has_it))} have it")
    for name, value in size.items():
        if name not in sizes:
            raise UserError(f"{name} is no size of {task}, which has {', '.join(sizes)}")
        if isinstance(value, float) or value not in sizes[name].allowed:
            raise UserError(f"{name} must be {sizes[name].text} (got {value!r})")


def read_examples(path):
    """The Examples of a file: a JSON list of records, ProntoQA's raw problems or GSM8k-Aug's lines.

    Raises UserError with file, record and reason. Steps without text are dropped. Of GSM8k-Aug's
    files, lines without just one || are no problems."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"cannot read {path}: it is no file")  # a device might never end
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: no text in UTF-8, or packed ({error})") from None
    if text.startswith("version https://git-lfs"):
        raise UserError(f"{path} is a Git-LFS pointer: run `git lfs pull` where it comes from")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON: {error}") from None
        if isinstance(records, dict):
            records = [TASKS["prontoqa"].read_raw(raw) for raw in records.values()]
    else:
        lines = [line for line in text.split("\n") if line.strip()]
        records = [TASKS["gsm8k"].read_line(line) for line in lines if line.count("||") == 1]
        if 0 < len(records) < len(lines):
            print(f"left out {len(lines) - len(records)} lines of {path}, which are no problems")
    if not records:
        raise UserError(f"{path} holds no problems, neither [{{question, steps, answer}}, ..] "
                        "nor lines `question||<<a=b>> .. #### answer`")
    return [to_example(record, f"{path}, record {i}") for i, record in enumerate(records, start=1)]


MOST_CHARACTERS = 100_000  # of a text: more would take hours to cut into tokens


def to_example(record, where):
    try:
        question, steps, answer = record["question"], record["steps"], record["answer"]
    except (TypeError, KeyError):
        raise UserError(f"{where} lacks question, steps or answer") from None
    if not isinstance(steps, list) or not all(isinstance(text, str)
                                              for text in (question, answer, *steps)):
        raise UserError(f"{where}: question and answer must be texts, steps a list of texts")
    if not (question.strip() and answer.strip()):
        raise UserError(f"{where} has an empty question or answer")
    if "#" in answer:
        raise UserError(f"{where} has a # in its answer, which is where an answer would begin")
    for text in (question, answer, *steps):
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"{where} has a text of {len(text)} characters: too long")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} has half a character (a lone surrogate)") from None
    return Example(question, [step for step in steps if step.strip()], answer)


def load_splits(source, task, size, grow, seed, n_train, n_valid, n_test):
    """(train, valid, test): a function from epoch to list of Examples, and two such lists.

    source: "generated" or "balanced" (see `problems`, also for grow, which is for training; new
    ones every epoch), "official" (the released files, downloaded once), a folder with train, valid
    and test files, or a single file, split by position as officially ProntoQA is, 90 : 2 : 8. n_*
    cut what files hold, if not 0. No question of the other two is left in the training split."""
    if source in GENERATED:
        def generate(split, n, epoch=0, grow=0):
            records = problems(task, n, seed, split, epoch, source == "balanced", grow, **size)
            return [Example(r["question"], r["steps"], r["answer"]) for r in records]
        return (lambda epoch: generate("train", n_train, epoch, grow),
                generate("valid", n_valid), generate("test", n_test))
    if source == "official":
        source = download_official(task)
    if os.path.isdir(source):
        train, valid, test = (read_examples(find_split(source, task, split))
                              for split in ("train", "valid", "test"))
    else:
        whole = read_examples(source)
        a = round(0.90 * len(whole))
        b = max(a + 1, round(0.92 * len(whole)))
        train, valid, test = whole[:a], whole[a:b], whole[b:]
        if not (train and valid and test):
            raise UserError(f"{source} has {len(whole)} problems, too few to split 90 : 2 : 8")
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


def unrepeated(examples, others, where):
    """The Examples whose question is not among the others', each once. Says how many that drops."""
    questions = {example.question: example for example in reversed(examples)}  # the first stays
    for other in others:
        questions.pop(other.question, None)
    if len(questions) < len(examples):
        print(f"left out {len(examples) - len(questions)} of {len(examples)} problems of {where}, "
              "as they repeat others" + " or are in the test split" * bool(others))
    return [example for example in examples if questions.get(example.question) is example]


def find_split(folder, task, split):
    names = [prefix + split + end for prefix in ("", f"{task}_") for end in (".json", ".txt")]
    for path in (os.path.join(folder, name) for name in names):
        if os.path.exists(path):
            return path
    raise UserError(f"{folder} has no {split} split: one of {', '.join(names)}")


def download_official(task, folder="data"):
    """The folder with a task's released files, fetched on first use."""
    files = getattr(TASKS[task], "OFFICIAL", {})
    if not files:
        raise UserError(getattr(TASKS[task], "NO_OFFICIAL", f"no files of {task} were released"))
    for name, (url, sha256) in files.items():
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            try:
                digest = download(url, path, sha256)
            except OSError as error:
                raise UserError(f"could not download {url} ({error}): put the file at {path} "
                                "yourself, or use --data generated") from None
            if sha256 is None:
                print(f"unchecked, SHA-256 {digest}")
    return folder


def download(url, path, sha256=None):
    """Fetch a file whole, or not at all; returns its SHA-256. Raises OSError for whatever the
    network does, UserError if sha256 is known and another one."""
    print(f"downloading {url}")
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:
        try:
            part, _ = urlretrieve(url, os.path.join(scratch, "part"))
        except HTTPException as error:  # no HTTP, or cut short
            raise OSError(f"{type(error).__name__} {error}") from None
        with open(part, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if sha256 not in (None, digest):
            raise UserError(f"{url} is not the released file: its SHA-256 is {digest}")
        os.replace(part, path)
    return digest


def points(task, examples):
    """{rule: [1 if it bets on the answer, 0 if on another, 0.5 if it has no opinion, ..]} of
    Examples of text; {} if the task has no rules, or a question is not worded as the task's are."""
    try:
        bets = [TASKS[task].guesses(example.question) for example in examples]
    except (AttributeError, LookupError, ValueError):  # what the rules look for is not there
        return {}
    return {rule: [0.5 if bet[rule] is None else float(is_correct("### " + bet[rule], e.answer))
                   for bet, e in zip(bets, examples)] for rule in bets[0]}


def shortcut_accuracy(task, examples):
    """{rule: accuracy} of a task's rules on Examples of text; no opinion counts as half right."""
    return {rule: mean(values) for rule, values in points(task, examples).items()}


def checksum(examples):
    """A short text that is the same for the same questions, to see that two runs had the same."""
    return f"{zlib.crc32(repr([example.question for example in examples]).encode()):08x}"
