"""Problems, checkpoints and downloads from strangers: damaged, foreign or hostile."""
import gzip
import http.server
import json
import os
import pickle
import random
import threading

import pytest
import torch

from data import END, SPECIAL, encode, end_of, markers_of, text_of, word_encoding
from harness import start
from harness.files import read_torch
from harness.gpt2 import load_gpt2
from harness.settings import complete
from harness.start import load_run
from tasks import prosqa
from tasks.common import download, load_splits, read_examples
from tasks.record import Example
from test_train import PRONTOQA, SMALL, TINY, train

pytestmark = pytest.mark.house
GOOD = {"question": "Tom is a cat. Is Tom a cat or dog?", "steps": ["Tom is a cat."],
        "answer": "Tom is a cat."}
FEW = "--n_train 8 --n_valid 4 --n_test 4".split()


def but(**changes):
    """A file of two records, the second with changes."""
    return json.dumps([GOOD, {**GOOD, **changes}]).encode()


def without(key):
    return json.dumps([GOOD, {k: v for k, v in GOOD.items() if k != key}]).encode()


# ---------------------------------------------------------------------------------------------
# Problems

REFUSED = {  # name: (what a file holds, what the sentence says beside the file's name)
    "empty": (b"", "holds no problems"),
    "blank": (b" \n\r\n\t", "holds no problems"),
    "no records": (b"[]", "holds no problems"),
    "no examples": (b"{}", "holds no problems"),
    "prose": (b"Once upon a time.\nThe end.\n", "holds no problems"),
    "table": (b"question,steps,answer\na,b,c\n", "holds no problems"),
    "unfinished": (but()[:-10], "is not valid JSON"),
    "two values": (but() + but(), "is not valid JSON"),
    "JSON lines": (b"\n".join([json.dumps(GOOD).encode()] * 2), "is not valid JSON"),
    "single quotes": (str([GOOD]).encode(), "is not valid JSON"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, "is not valid JSON"),
    "deep objects": (b'{"a":' * 100_000, "is not valid JSON"),
    "a huge number": (b"[" + b"9" * 10_000 + b"]", "is not valid JSON"),
    "a number": (b"[5]", "record 1 lacks question, steps or answer"),
    "nothing": (b"[null]", "record 1 lacks"),
    "not a number": (b"[NaN]", "record 1 lacks"),
    "a text": (b'["question"]', "record 1 lacks"),
    "a list": (b'[["question", "steps", "answer"]]', "record 1 lacks"),
    "foreign keys": (b'[{"prompt": "a", "completion": "b"}]', "record 1 lacks"),
    "foreign object": (b'{"data": [1, 2]}', "record 1 lacks"),
    "half of ProntoQA": (b'{"example1": {"test_example": {"question": "q"}}}', "record 1 lacks"),
    "a proof that is a text": (b'{"x": {"test_example": {"question": "q", "query": "p", "answer": '
                               b'"True", "chain_of_thought": "abcd"}}}', "record 1 lacks"),
    "no question": (without("question"), "record 2 lacks"),
    "no steps": (without("steps"), "record 2 lacks"),
    "no answer": (without("answer"), "record 2 lacks"),
    "question null": (but(question=None), "record 2: question and answer must be texts"),
    "question list": (but(question=["Is", "Tom"]), "record 2: question and answer must be texts"),
    "answer number": (but(answer=7), "record 2: question and answer must be texts"),
    "answer NaN": (but(answer=float("nan")), "record 2: question and answer must be texts"),
    "answer true": (but(answer=True), "record 2: question and answer must be texts"),
    "steps text": (but(steps="Tom is a cat."), "steps a list of texts"),
    "steps null": (but(steps=None), "steps a list of texts"),
    "steps object": (but(steps={"1": "Tom is a cat."}), "steps a list of texts"),
    "step number": (but(steps=["Tom", 5]), "steps a list of texts"),
    "step list": (but(steps=[["Tom is a cat."]]), "steps a list of texts"),
    "question empty": (but(question=""), "record 2 has an empty question or answer"),
    "question blank": (but(question=" \n\t"), "record 2 has an empty question or answer"),
    "answer empty": (but(answer=""), "record 2 has an empty question or answer"),
    "answer marked": (but(answer="#5"), "record 2 has a # in its answer"),
    "question of 10 MB": (but(question="a" * 10**7), "record 2 has a text of 10000000 characters"),
    "step of 10 MB": (but(steps=["a b " * 10**6]), "record 2 has a text of 4000000 characters"),
    "lone surrogate": (but(question="Is \ud800 a cat?"), "record 2 has half a character"),
    "invalid UTF-8": (but().replace(b"Tom", b"T\xf6m"), "no text in UTF-8"),
    "UTF-16": (but().decode().encode("utf-16"), "no text in UTF-8"),
    "packed": (gzip.compress(but()), "no text in UTF-8, or packed"),
    "broken gzip": (gzip.compress(but())[:40], "no text in UTF-8, or packed"),
    "a Git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                          "is a Git-LFS pointer: run `git lfs pull`"),
    "no #### in a line": (b"1 + 1?||<<1+1=2>> 2", "record 1 has an empty question or answer"),
    "no question in a line": (b"||<<1+1=2>> #### 2", "record 1 has an empty question or answer"),
    "no answer in a line": (b"1 + 1?||<<1+1=2>> ####", "record 1 has an empty question or answer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_file_is_refused_in_a_sentence(tmp_path, name):
    content, message = REFUSED[name]
    path = tmp_path / "problems.json"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="train.py: .*problems.json") as stop:
        train("--data", path, "--out_dir", tmp_path / "out")
    assert message in str(stop.value) and "\n" not in str(stop.value)


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in [("/dev/zero", "it is no file"), (tmp_path / "pipe", "it is no file"),
                          (tmp_path / "none", "No such file")]:
        with pytest.raises(ValueError, match=message):
            load_splits(str(path), "prosqa", {}, 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="has no train split: one of train.json, train.txt"):
        load_splits(str(tmp_path), "prosqa", {}, 0, 0, 0, 0, 0)


READ = {  # name: (what a file holds, the Examples that are made of it)
    "byte order mark": (b"\xef\xbb\xbf" + but(), [Example(*GOOD.values())] * 2),
    "CRLF": (b"1 + 1?||<<1+1=2>> #### 2\r\n\r\n2?|| #### 2\r\n",
             [Example("1 + 1?", ["<<1+1=2>>"], "2"), Example("2?", [], "2")]),
    "lines that are no problems": (b"# 2 problems\n1 + 1?||<<1+1=2>> #### 2\na||b||c\n",
                                   [Example("1 + 1?", ["<<1+1=2>>"], "2")]),
    "empty steps": (json.dumps([{**GOOD, "steps": ["", " ", "Tom is a cat.", "\n"]}]).encode(),
                    [Example(*GOOD.values())]),
    "no steps": (json.dumps([{**GOOD, "steps": []}]).encode(),
                 [Example(GOOD["question"], [], GOOD["answer"])]),
    "more keys": (but(idx_to_symbol=["Tom"], root=0), [Example(*GOOD.values())] * 2),
    "spaces before the bracket": (b"\n\n  " + but(), [Example(*GOOD.values())] * 2),
}


@pytest.mark.parametrize("name", READ)
def test_a_harmless_oddity_changes_no_problem(tmp_path, name, capsys):
    content, examples = READ[name]
    (tmp_path / "problems").write_bytes(content)
    assert read_examples(tmp_path / "problems") == examples
    assert ("left out 2 lines" in capsys.readouterr().out) == (name == "lines that are no problems")


def test_no_problem_is_both_trained_on_and_tested_on(tmp_path, capsys):
    records = {split: [{**GOOD, "question": f"{i}?"} for i in numbers] for split, numbers in
               {"train": range(10), "valid": (3, 20), "test": (4, 5, 21)}.items()}
    for split in records:
        (tmp_path / f"{split}.json").write_text(json.dumps(records[split]))
    drawn, valid, test = load_splits(str(tmp_path), "prosqa", {}, 0, 0, 0, 0, 0)
    assert [e.question for e in drawn(0)] == ["0?", "1?", "2?", "6?", "7?", "8?", "9?"]
    assert (len(valid), len(test)) == (2, 3)
    assert "left out 3 of 10 problems for training" in capsys.readouterr().out
    assert len(start.tested_problems(complete({"task": "prosqa", "data": str(tmp_path)}))) == 3
    assert "left out 3 of 10 problems for training" in capsys.readouterr().out
    drawn, _, _ = load_splits(str(tmp_path), "prosqa", {}, 0, 0, 4, 0, 0)
    assert [e.question for e in drawn(0)] == ["0?", "1?", "2?", "6?"]  # as many as were asked for


def test_a_problem_counts_once_and_stands_in_one_split(tmp_path, capsys):
    for split, numbers in (("train", [0]), ("valid", [1, 2, 3]), ("test", [3, 4, 4, 5])):
        records = [{**GOOD, "question": f"{i}?"} for i in numbers]
        (tmp_path / f"{split}.json").write_text(json.dumps(records))
    _, valid, test = load_splits(str(tmp_path), "prosqa", {}, 0, 0, 0, 0, 0)
    assert [e.question for e in valid] == ["1?", "2?"]
    assert [e.question for e in test] == ["3?", "4?", "5?"]
    out = capsys.readouterr().out
    assert "left out 1 of 4 problems of the test split, as they repeat others\n" in out
    assert "left out 1 of 3 problems of the validation split, as they repeat others or are" in out


def test_text_that_spells_a_special_token_stays_text(tmp_path, capsys):
    """Through the whole of training: the ids of special tokens occur only where they belong."""
    text = "".join([*SPECIAL, END])
    records = [{"question": f"{text} {i}?", "steps": [text] * 2, "answer": text}
               for i in range(40)]
    (tmp_path / "x.json").write_text(json.dumps(records).replace("#", ""))
    train("--data", tmp_path / "x.json", *SMALL, "--epochs", 3, "--epochs_stage_0", 1,
          "--epochs_per_stage", 1, "--max_new_tokens", 5, "--out_dir", tmp_path / "out")
    enc = load_run(tmp_path / "out" / "ckpt.pt")[2]
    ids = encode(Example(text, [text], text), enc)
    assert not {*markers_of(enc), end_of(enc)} & {*ids.question, *ids.steps[0], *ids.answer[:-1]}
    assert "accuracy" in capsys.readouterr().out


def random_json(rng, depth=0):
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind < 3:
        return rng.choice([None, True, 0, -1.5, 10**30, "", " ", "question", "#### 2", "||", "\x00",
                           "<|thought|>", "\ud834", "naïve 猫", "[", "a" * 50])
    if kind < 5:
        return {**GOOD, rng.choice([*GOOD]): random_json(rng, 5)}
    if kind == 5:
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice([*GOOD, "test_example", "query", "chain_of_thought"]):
            random_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_random_files_end_in_examples_or_in_a_sentence(tmp_path):
    """Random bytes, random JSON, and good files with random bytes in them."""
    rng, path = random.Random(0), tmp_path / "file"
    good = [but(), b"1 + 1?||<<1+1=2>> #### 2\n" * 3]
    read = 0
    for i in range(600):
        content = bytearray(json.dumps(random_json(rng)).encode() if i % 3 == 0 else
                            rng.choice(good) if i % 3 == 1 else rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(4) if i % 3 else 0):
            content[rng.randrange(len(content) or 1):][:1] = rng.randbytes(1)
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            examples = read_examples(path)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 300
            continue
        read += 1
        enc = word_encoding(map(text_of, examples))
        for example in examples:
            assert example.question.strip() and example.answer.strip()
            ids = encode(example, enc)
            assert enc.decode(ids.question) == example.question + "\n"
            assert [enc.decode(step) for step in ids.steps] == [s + "\n" for s in example.steps]
            assert enc.decode(ids.answer[:-1]) == "### " + example.answer
            assert max(ids.question + ids.answer[:-1]) < min(markers_of(enc))
    assert 60 < read < 540


# ---------------------------------------------------------------------------------------------
# Checkpoints

class Code:
    """Unpickling it would make a file."""
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("good") / "run"
    train(*PRONTOQA, *TINY, "--max_steps", 2, "--out_dir", out_dir)
    return out_dir


def refused(tmp_path, message="ckpt.pt"):
    """tmp_path/ckpt.pt must be refused in a sentence, by all three ways to read it."""
    path = str(tmp_path / "ckpt.pt")
    for read in (load_run, load_gpt2):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value).replace("\n\t", " ")
    for options in (["--resume", "--out_dir", tmp_path],
                    ["--init", path, *FEW, "--out_dir", tmp_path / "new"]):
        with pytest.raises(SystemExit, match="train.py: "):
            train(*options)


def test_a_checkpoint_runs_no_code(tmp_path):
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        write({"settings": Code(tmp_path / "made"), "wte.weight": torch.zeros(3, 4)},
              tmp_path / "ckpt.pt")
        refused(tmp_path, "cannot read .*: it is none, or it holds more than tensors and")
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"not a checkpoint", bytes(1000), gzip.compress(b"x" * 1000),
    b"version https://git-lfs.github.com/spec/v1\n", pickle.dumps(5), b"\x80\x02."])
def test_a_foreign_file_is_no_checkpoint(tmp_path, content):
    (tmp_path / "ckpt.pt").write_bytes(content)
    refused(tmp_path)


@pytest.mark.parametrize("value", [
    5, None, [], {}, {"settings": {}}, {"settings": 5, "model": {}},
    {"settings": {"task": "chess"}, "run": {"step": "x"}, "encoding": {}}])
def test_a_foreign_value_is_no_checkpoint(tmp_path, value):
    torch.save(value, tmp_path / "ckpt.pt")
    refused(tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, good_run):
    ckpt = torch.load(good_run / "ckpt.pt", weights_only=True)
    for change in ({"config": {**ckpt["config"], "n_embd": 10**9}},
                   {"config": {**ckpt["config"], "n_layer": 1}}, {"config": {"sizes": 1}},
                   {"run": {"step": 1, "leap": 2}}, {"run": None}, {"settings": None},
                   {"encoding": {**ckpt["encoding"], "pat_str": "("}},
                   {"settings": {**ckpt["settings"], "task": "chess"}},
                   {"settings": {**ckpt["settings"], "method": "telepathy"}},
                   {"run": {**ckpt["run"], "stage": "last"}},
                   {"encoding": {**ckpt["encoding"], "special_tokens": {}}},
                   {"model": {**ckpt["model"], "wte.weight": torch.zeros(2, 2)}}):
        torch.save({**ckpt, **change}, tmp_path / "ckpt.pt")
        with pytest.raises(ValueError, match="no checkpoint of this version|holds other weights"):
            load_run(tmp_path / "ckpt.pt")


def test_a_cut_or_damaged_checkpoint_is_refused(tmp_path, good_run):
    """Cut anywhere, or with one bit flipped: refused, unless the bit was one that says nothing."""
    good, rng = (good_run / "ckpt.pt").read_bytes(), random.Random(0)
    whole = read_torch(good_run / "ckpt.pt")
    for i in range(60):
        damaged = bytearray(good)
        if i < 20:
            del damaged[rng.randrange(len(good)):]
        else:
            damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        (tmp_path / "ckpt.pt").write_bytes(damaged)
        try:
            ckpt = read_torch(tmp_path / "ckpt.pt")
        except ValueError as error:
            assert "cannot read" in str(error) and "\n" not in str(error)
            continue
        assert i >= 20 and ckpt["settings"] == whole["settings"]
        assert all(torch.equal(tensor, whole["model"][name])
                   for name, tensor in ckpt["model"].items())


# ---------------------------------------------------------------------------------------------
# Downloads

@pytest.fixture
def server():
    """A server of its folder `pages` on the loopback; a page b"!.." breaks off half way."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = self.server.pages.get(self.path.strip("/"))
            if page is None:
                return self.send_error(404)
            if page == b"no HTTP":  # as a network that wants a login first may answer
                return self.wfile.write(page)
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page[:len(page) // 2] if page.startswith(b"!") else page)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.pages = {}
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_download_is_kept_only_if_it_is_whole_and_the_right_file(tmp_path, server):
    server.pages = {"whole": b"x" * 3_000_000, "broken": b"!" * 3_000_000, "login": b"no HTTP"}
    path = tmp_path / "folder" / "file"
    with pytest.raises(OSError, match="got only 1500000 out of 3000000 bytes"):
        download(server.url + "broken", path)
    with pytest.raises(ValueError, match="is not the released file: its SHA-256 is"):
        download(server.url + "whole", path, "0" * 64)
    for name, reason in (("none", "404"), ("login", "BadStatusLine no HTTP")):
        with pytest.raises(OSError, match=reason):
            download(server.url + name, path)
    assert list(path.parent.iterdir()) == []
    digest = download(server.url + "whole", path)
    assert path.read_bytes() == server.pages["whole"]
    assert download(server.url + "whole", path, digest) == digest


def test_official_data_is_fetched_whole_or_not_at_all(
        tmp_path, server, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = json.dumps([GOOD] * 3).encode()
    names = [f"prosqa_{split}.json" for split in ("train", "valid", "test")]
    monkeypatch.setattr(prosqa, "OFFICIAL", {name: (server.url + name, None) for name in names})
    server.pages = dict.fromkeys(names[:1], page) | {names[1]: b"!" + page}
    options = ["--task", "prosqa", "--data", "official"]
    with pytest.raises(SystemExit, match="could not download .*prosqa_valid.json .*got only .*: "
                                         "put the file at data/prosqa_valid.json yourself, or use "
                                         "--data generated"):
        train(*options)
    assert os.listdir("data") == names[:1]
    server.pages = {name: json.dumps([{**GOOD, "question": name}]).encode() for name in names}
    parts = load_splits("official", "prosqa", {}, 0, 0, 0, 0, 0)
    assert parts[0](0) == [Example(*GOOD.values())] * 3 and len(parts[2]) == 1
    assert "unchecked, SHA-256" in capsys.readouterr().out


def test_no_network_ends_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nobody = "http://127.0.0.1:9/"  # nobody listens there
    monkeypatch.setattr(prosqa, "OFFICIAL", {"prosqa_train.json": (nobody, None)})
    with pytest.raises(SystemExit, match="could not download .*refused.*--data generated"):
        train("--task", "prosqa", "--data", "official")
    monkeypatch.setattr("model.GPT2_URL", nobody + "{}")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(SystemExit, match="could not download .*refused.*give its path instead"):
        train("--init", "gpt2-medium", *FEW)
