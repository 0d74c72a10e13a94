"""Reading, splitting, tokenizing, padding and scoring."""
import json
import random
import re

import pytest
import tiktoken
import torch

from curriculum import NO_LOSS, Curriculum, build
from data import (END, SPECIAL, batches, collate, count_targets, encode, encoding_state, end_of,
                  gpt2_encoding, main, markers_of, text_of, word_encoding)
from tasks.common import load_splits, problems, read_examples
from tasks.record import Example, is_correct

RECORD = {"question": "Tom is a terpus. Is Tom a lempus or scrompus?", "answer": "Tom is a lempus.",
          "steps": ["Tom is a terpus.", "Every terpus is a lempus."]}


# ---------------------------------------------------------------------------------------------
# Files

def test_each_of_the_three_formats_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([RECORD]))
    assert read_examples(tmp_path / "a.json") == [Example(*[RECORD[k] for k in Example._fields])]
    (tmp_path / "b.txt").write_text("A cat has .5 kg.||<<.5*2=1>> <<1+1=2>> #### 2,000\n\nno bars\n"
                                    "No step.|| #### 7\n")
    assert read_examples(tmp_path / "b.txt") == [
        Example("A cat has .5 kg.", ["<<.5*2=1>>", "<<1+1=2>>"], "2,000"),
        Example("No step.", [], "7")]
    proof = ["Rex is a c1.", "Every c1 is a c2.", "Rex is a c2.", "Every c2 is red.", "Rex is red."]
    raw = {"question": "Facts.", "query": "True or false: Rex is red.", "chain_of_thought": proof,
           "answer": "True"}
    (tmp_path / "c.json").write_text(json.dumps({"example1": {"test_example": raw}}))
    assert read_examples(tmp_path / "c.json") == [
        Example("Facts. True or false: Rex is red.",
                ["Rex is a c1. Every c1 is a c2.", "Rex is a c2. Every c2 is red.", "Rex is red."],
                "True")]


@pytest.mark.house
@pytest.mark.parametrize("content, message", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS pointer"),
    (b"[{", "not valid JSON"),
    (b"", "holds no problems"),
    (b"[]", "holds no problems"),
    (b"\xff\xfe\x00", "cannot read"),
    (b'[{"question": "q", "steps": []}]', "record 1 lacks question, steps or answer"),
    (b'[{"question": "q", "steps": [], "answer": 5}]',
     "record 1: question and answer must be texts"),
    (b'[{"question": "q", "steps": "abc", "answer": "5"}]', "record 1: question and answer"),
    (b'[{"question": " ", "steps": [], "answer": "5"}]', "record 1 has an empty question"),
    (b'[7]', "record 1 lacks"),
    (b'{"example1": {"question": "q"}}', "record 1 lacks"),
    (b"[" * 100_000, "not valid JSON"),
])
def test_a_useless_file_is_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_examples(path)
    assert "file.json" in str(error.value)


def test_a_folder_is_split_by_its_files_and_a_file_by_position(tmp_path):
    records = [{**RECORD, "question": f"{i} Is Tom a lempus or scrompus?"} for i in range(100)]
    (tmp_path / "one.json").write_text(json.dumps(records))
    train, valid, test = load_splits(str(tmp_path / "one.json"), "prosqa", {}, False, 0, 0, 0, 0)
    assert [len(train(0)), len(valid), len(test)] == [90, 2, 8] and train(0) == train(5)
    assert [int(e.question.split()[0]) for e in train(0) + valid + test] == list(range(100))
    for split, first, last in (("train", 0, 5), ("valid", 5, 8), ("test", 8, 10)):
        (tmp_path / f"prosqa_{split}.json").write_text(json.dumps(records[first:last]))
    train, valid, test = load_splits(str(tmp_path), "prosqa", {}, False, 0, 4, 0, 0)
    assert [len(train(0)), len(valid), len(test)] == [4, 3, 2]
    with pytest.raises(ValueError, match="no train split: one of train.json"):
        load_splits(str(tmp_path), "gsm8k", {}, False, 0, 0, 0, 0)


def test_training_problems_are_new_in_every_epoch_and_never_tested_on():
    size = {"hops": 1, "wording": "every"}
    train, valid, test = load_splits("generated", "prontoqa", size, True, 3, 200, 200, 200)
    assert train(0) == train(0) != train(1)
    held_out = {e.question for e in valid} | {e.question for e in test}
    assert not held_out & {e.question for epoch in range(3) for e in train(epoch)}
    assert not {e.question for e in valid} & {e.question for e in test}


# ---------------------------------------------------------------------------------------------
# Tokens

def every_task(n=20):
    kinds = [("prosqa", {}), ("prosqa", {"steps": "names"}), ("prontoqa", {}),
             ("prontoqa", {"steps": "names"}), ("gsm8k", {})]
    return [Example(r["question"], r["steps"], r["answer"])
            for task, size in kinds for r in problems(task, n, seed=1, **size)]


def test_the_word_vocabulary_loses_no_text():
    enc = word_encoding(text_of(example) for example in every_task())
    rng = random.Random(0)
    texts = [text_of(example) for example in every_task()]
    texts += ["", "Zebra crossing — 3½ naïve 猫 \t\r\n\x00  x", "<|bot|>"]
    texts += ["".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(1, 0xD800))))
                      for _ in range(rng.randrange(60))) for _ in range(300)]
    for text in texts:
        assert enc.decode(enc.encode_ordinary(text)) == text


def test_a_word_is_a_token_and_the_vocabulary_is_small():
    enc = word_encoding(text_of(example) for example in every_task(200))
    assert enc.n_vocab < 256 + 5 + 320
    for word in (" vumpus", "Every", " is", "### ", "True", "<<", ">>"):
        assert len(enc.encode_ordinary(word)) == 1, word
    assert len(enc.encode_ordinary("<<12+30=42>>")) == 2 + len("12+30=42")  # a token a digit


def test_a_step_that_is_a_name_takes_one_token():
    example = every_task()[20]
    enc = word_encoding([text_of(example)])
    names = encode(example, enc).steps
    assert [enc.decode(ids) for ids in names] == [" " + name for name in example.steps]
    assert {len(ids) for ids in names} == {1}


def test_text_that_spells_a_special_token_stays_text():
    enc = word_encoding(["a b"])
    example = Example(f"Is {''.join(SPECIAL)}{END} a token?", [SPECIAL[2]], END)
    ids = encode(example, enc)
    special = {enc._special_tokens[name] for name in [*SPECIAL, END]}
    assert not special & {*ids.question, *sum(ids.steps, []), *ids.answer[:-1]}
    assert ids.answer[-1] == end_of(enc)


@pytest.mark.parametrize("name", ["words", "gpt2"])
def test_pieces_tokenize_as_the_whole_text_does(name, request):
    """Training sequences are glued from pieces, and must hold the tokens of the whole text."""
    examples = every_task(50)
    if name == "gpt2":
        request.getfixturevalue("needs_gpt2_vocabulary")
        examples += read_examples(request.getfixturevalue("real_data") / "prosqa_valid.json")
    enc = gpt2_encoding() if name == "gpt2" else word_encoding(map(text_of, examples))
    for example in examples:
        question, steps, answer = encode(example, enc)
        assert question + sum(steps, []) + answer[:-1] == enc.encode_ordinary(text_of(example))


def test_new_tokens_stand_where_the_official_coconut_has_them(needs_gpt2_vocabulary):
    assert markers_of(gpt2_encoding()) == (50257, 50258, 50259, 50260)
    assert end_of(gpt2_encoding()) == 50256


def test_an_encoding_is_the_same_after_its_checkpoint(tmp_path):
    enc = word_encoding(text_of(example) for example in every_task())
    torch.save(encoding_state(enc), tmp_path / "state.pt")
    again = tiktoken.Encoding(**torch.load(tmp_path / "state.pt", weights_only=True))
    text = text_of(every_task()[0]) + " unseen wörds"
    assert again.encode_ordinary(text) == enc.encode_ordinary(text)
    assert markers_of(again) == markers_of(enc)


# ---------------------------------------------------------------------------------------------
# Batches

def test_collate_returns_the_picture_of_padding():
    lines = collate.__doc__.split("\n")
    rows = [line for line in lines if "<bot>" in line]
    head, = [line for line in lines if line.strip() == "start"]
    assert {row.index("T") for row in rows if "T" in row} == {head.index("start")}

    # Two spaces stand between the cells of a row, more before a remark.
    cells = [row.strip().partition("   ")[0].split() for row in rows]
    symbols = [".", "Q", "<bot>", "T", "<eot>", "1", "2", "3", "A"]  # a symbol's place is its id
    picture = torch.tensor([[symbols.index(cell) for cell in row] for row in cells])
    is_real = picture != symbols.index(".")
    learned = torch.where(picture > symbols.index("<eot>"), picture, NO_LOSS)
    start = 1 + cells[0].index("<bot>")

    sequences = [(row[keep].tolist(), row_learned[keep].tolist(), start - left)  # without padding
                 for row, row_learned, keep in zip(picture, learned, is_real)
                 for left in [keep.int().argmax().item()]]
    assert [ids[:n].count(symbols.index("<bot>")) for ids, _, n in sequences] == [1, 1, 1]
    ids, targets, is_thought, real, column = collate(sequences, thought_id=symbols.index("T"))
    assert torch.equal(ids, picture) and torch.equal(real, is_real) and column == start
    assert torch.equal(is_thought, picture == symbols.index("T"))
    assert torch.equal(targets, learned)
    assert count_targets(sequences) == (learned != NO_LOSS).sum()


def test_questions_end_before_one_column_whatever_the_method_and_the_stage():
    examples = every_task(8)
    enc = word_encoding(map(text_of, examples))
    marks, rows = markers_of(enc), []
    for i, example in enumerate(examples):  # a batch of all methods, stages and lengths
        method = ["coconut", "pause_as_thought", "no_thought", "no_cot", "cot", "icot"][i % 6]
        rows.append(build(encode(example, enc), i % 4, Curriculum(method), marks))
    ids, targets, is_thought, is_real, start = collate(rows, marks.thought)
    assert not is_thought[:, :start].any() and (targets[:, :start] == NO_LOSS).all()
    for row, (row_ids, row_targets, row_start) in enumerate(rows):
        assert ids[row, is_real[row]].tolist() == row_ids
        assert targets[row, is_real[row]].tolist() == row_targets
        assert is_real[row, :start].sum() == row_start
    plain = collate([([7, 8, 9], [7, 8, 9], 1), ([4, 5], [4, 5], 1)], marks.thought)
    assert plain[0].tolist() == [[7, 8, 9], [4, 5, 0]] and plain[-1] == 1


def test_an_epoch_has_every_example_once_shuffled_and_bucketed_by_length():
    rng = random.Random(0)
    examples = [Example(f"{i:03}" * rng.randrange(10, 100), [], "") for i in range(1000)]
    lists = batches(examples, 32, random.Random(1))
    assert sorted(example for batch in lists for example in batch) == sorted(examples)
    assert lists == batches(examples, 32, random.Random(1))
    assert lists != batches(examples, 32, random.Random(2))
    longest = [max(len(example.question) for example in batch) for batch in lists]
    padding = sum(T - len(e.question) for T, batch in zip(longest, lists) for e in batch)
    assert padding / sum(len(example.question) for example in examples) < 0.1
    assert longest != sorted(longest) and longest != sorted(longest)[::-1], "the epoch is in order"


# ---------------------------------------------------------------------------------------------
# Scoring

@pytest.mark.parametrize("written, answer, right", [
    ("<<1+1=2>>\n### 2", "2", True),
    ("### 1,000", "1000", True),
    ("### 1000", "1,000", True),
    ("### 5.0", "5", False),
    ("### -5", "5", False),
    ("### 2\n### 3", "3", True),
    ("###  Tom is a lempus. ", "Tom is a lempus.", True),
    ("### Tom is a lempus", "Tom is a lempus.", False),
    ("True", "True", False),
    ("", "True", False),
])
def test_an_answer_is_scored_as_by_the_official_code(written, answer, right):
    assert is_correct(written, answer) is right


# ---------------------------------------------------------------------------------------------
# Real files, and the command line

@pytest.mark.parametrize("name, n, steps", [
    ("prosqa_valid.json", 300, {3, 4, 5, 6}),
    ("gsm8k_aug_valid.txt", 500, set(range(9))),
    ("prontoqa_5hop_raw.json", 300, {6}),
])
def test_an_official_file_is_read_whole(real_data, name, n, steps):
    examples = read_examples(real_data / name)
    assert len(examples) == n and {len(e.steps) for e in examples} <= steps
    assert all(e.question and e.answer and "" not in e.steps for e in examples)


@pytest.mark.parametrize("args", [
    ["prosqa", "--nodes", "12", "--balanced"],
    ["prontoqa", "--hops", "2"],
    ["gsm8k", "--max_value", "99"],
])
def test_the_command_line_writes_what_can_be_read(tmp_path, capsys, args):
    out = str(tmp_path / "out.json")
    main([args[0], out, "--n", "30", "--seed", "7", "--split", "test", *args[1:]])
    assert len(read_examples(out)) == 30 and "wrote 30 problems" in capsys.readouterr().out


@pytest.mark.house
@pytest.mark.parametrize("args, message", [
    (["prontoqa", "out.json", "--hops", "9"], "hops must be 1..6"),
    (["prontoqa", "out.json", "--nodes", "9"], "nodes is no size of prontoqa"),
    (["gsm8k", "out.json", "--balanced"], "balanced must be off for gsm8k"),
    (["prosqa", "/nonexistent/out.json", "--n", "1"], "No such file or directory"),
])
def test_a_wrong_command_ends_in_a_sentence(args, message):
    with pytest.raises(SystemExit, match=f"data.py: .*{re.escape(message)}"):
        main(args)
