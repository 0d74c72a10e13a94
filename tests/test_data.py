"""Reading, splitting, tokenizing, padding and scoring."""
import json
import random

import pytest
import tiktoken
import torch

from curriculum import METHODS, NO_LOSS, Curriculum, build
from data import (END, SPECIAL, batches, collate, count_targets, encode, encoding_state, end_of,
                  gpt2_encoding, lines_of, main, markers_of, text_of, word_encoding)
from tasks import TASKS
from tasks.common import load_splits, problems, read_examples
from tasks.record import Example, is_correct


@pytest.mark.parametrize("text, example", [
    ('[{"question": "q", "steps": ["s", "t"], "answer": "a"}]', Example("q", ["s", "t"], "a")),
    ("q?||<<.5*2=1>> <<1+1=2>> #### 2,000", Example("q?", ["<<.5*2=1>>", "<<1+1=2>>"], "2,000")),
    ('{"1": {"test_example": {"question": "Facts.", "query": "q", "answer": "True", '
     '"chain_of_thought": ["a.", "b.", "c."]}}}', Example("Facts. q", ["a. b.", "c."], "True"))])
def test_each_of_the_three_formats_is_read(tmp_path, text, example):
    (tmp_path / "file").write_text(text)
    assert read_examples(tmp_path / "file") == [example]


def test_a_folder_is_split_by_its_files_and_a_file_by_position(tmp_path):
    records = [{"question": str(i), "steps": [], "answer": "a"} for i in range(100)]
    (tmp_path / "one").write_text(json.dumps(records))
    train, valid, test = load_splits(str(tmp_path / "one"), "prosqa", {}, 0, 0, 0, 0, 0)
    assert [len(train(0)), len(valid), len(test)] == [90, 2, 8] and train(0) == train(5)
    assert [int(e.question) for e in train(0) + valid + test] == [*range(100)]
    for split, part in (("train", records[:5]), ("valid", records[5:8]), ("test", records[8:])):
        (tmp_path / f"prosqa_{split}.json").write_text(json.dumps(part))
    train, valid, test = load_splits(str(tmp_path), "prosqa", {}, 0, 0, 4, 0, 0)
    assert [len(train(0)), len(valid), len(test)] == [4, 3, 92]
    with pytest.raises(ValueError, match="no train split, such as train.json"):
        load_splits(str(tmp_path), "gsm8k", {}, 0, 0, 0, 0, 0)


def test_training_problems_are_new_in_every_epoch_and_never_tested_on():
    train, valid, test = load_splits("generated", "prontoqa", {"hops": 2}, 1, 3, 200, 200, 200)
    assert train(0) == train(0) != train(1)
    held_out = {example.question for example in valid + test}
    assert len(held_out) == 400 and not held_out & {e.question for e in train(0) + train(1)}


def every_task(n=50):
    return [Example(r["question"], r["steps"], r["answer"])
            for task, module in TASKS.items() for size in ({}, {"steps": "names"})
            if size.keys() <= module.SIZES.keys() for r in problems(task, n, seed=1, **size)]


def test_the_word_vocabulary_loses_no_text_and_has_a_token_for_a_word_a_digit_and_a_name():
    texts, rng = [text_of(example) for example in every_task(200)], random.Random(0)
    enc = word_encoding(texts)
    texts += ["", "Zebra crossing — 3½ naïve 猫 \t\r\n\x00  x", "<|bot|>"]
    texts += ["".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(1, 0xD800))))
                      for _ in range(rng.randrange(60))) for _ in range(300)]
    for text in texts:
        assert enc.decode(enc.encode_ordinary(text)) == text
    for text in ("Every", " is", " is a", "### ", "True", "<<", ">>", "1", "=",
                 *lines_of(["dumpus"])):
        assert len(enc.encode_ordinary(text)) == 1, text


def test_text_that_spells_a_special_token_stays_text():
    enc, text = word_encoding(["a b"]), "".join([*SPECIAL, END])
    ids = encode(Example(text, [text], text), enc)
    assert not {*markers_of(enc), end_of(enc)} & {*ids.question, *ids.steps[0], *ids.answer[:-1]}
    assert ids.answer[-1] == end_of(enc)


def check_pieces(examples, enc):
    """Training sequences are glued from pieces, and must hold the tokens of the whole text."""
    for example in examples:
        question, steps, answer = encode(example, enc)
        assert question + sum(steps, []) + answer[:-1] == enc.encode_ordinary(text_of(example))


def test_pieces_tokenize_as_the_whole_text_does():
    check_pieces(every_task(), word_encoding(map(text_of, every_task())))


def test_gpt2_s_tokens_do_so_too_and_new_ones_stand_where_official_ones_do(needs_gpt2_vocabulary):
    check_pieces(every_task(), gpt2_encoding())
    assert markers_of(gpt2_encoding()) == (50257, 50258, 50259, 50260)
    assert end_of(gpt2_encoding()) == 50256


def test_an_encoding_is_the_same_after_its_checkpoint(tmp_path):
    text, enc = "Every cat is a", word_encoding(["Every cat is a"])
    torch.save(encoding_state(enc), tmp_path / "state.pt")
    again = tiktoken.Encoding(**torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.encode_ordinary(text + " wörds") == enc.encode_ordinary(text + " wörds")
    assert encoding_state(again) == encoding_state(enc)


def test_collate_returns_the_picture_of_padding():
    lines = collate.__doc__.split("\n")
    cells = [line.strip().partition("   ")[0].split() for line in lines if "<bot>" in line]
    symbols = [".", "Q", "<bot>", "T", "<eot>", "1", "2", "3", "A"]  # a symbol's place is its id
    picture = torch.tensor([[symbols.index(cell) for cell in row] for row in cells])
    learned, start = torch.where(picture > 4, picture, NO_LOSS), 1 + cells[0].index("<bot>")
    rows = [(row[real].tolist(), row_learned[real].tolist(), real[:start].sum().item())
            for row, row_learned, real in zip(picture, learned, picture > 0)]  # without padding
    *tensors, column = collate(rows, thought_id=symbols.index("T"))
    assert all(map(torch.equal, tensors, (picture, learned, picture == 3, picture > 0)))
    assert column == start and count_targets(rows) == (learned != NO_LOSS).sum()


def test_questions_end_before_one_column_whatever_the_method_and_the_stage():
    examples = every_task(8)
    enc = word_encoding(map(text_of, examples))
    rows = [build(encode(example, enc), i % 4, Curriculum([*METHODS][i % 8]), markers_of(enc))
            for i, example in enumerate(examples)]
    ids, targets, is_thought, is_real, start = collate(rows, markers_of(enc).thought)
    assert not is_thought[:, :start].any() and (targets[:, :start] == NO_LOSS).all()
    for row, (row_ids, row_targets, row_start) in enumerate(rows):
        assert ids[row, is_real[row]].tolist() == row_ids
        assert targets[row, is_real[row]].tolist() == row_targets
        assert is_real[row, :start].sum() == row_start


def test_an_epoch_has_every_example_once_shuffled_and_bucketed_by_length():
    rng = random.Random(0)
    examples = [Example(f"{i:03}" * rng.randrange(10, 100), [], "") for i in range(1000)]
    lists = batches(examples, 32, random.Random(1))
    assert sorted(example for batch in lists for example in batch) == sorted(examples)
    assert lists == batches(examples, 32, random.Random(1)) != batches(examples, 32, rng)
    longest = [max(len(example.question) for example in batch) for batch in lists]
    padding = sum(T - len(e.question) for T, batch in zip(longest, lists) for e in batch)
    assert padding / sum(len(example.question) for example in examples) < 0.1
    assert longest != sorted(longest) and longest != sorted(longest)[::-1], "the epoch is in order"


def test_an_answer_is_scored_as_by_the_official_code():
    for written, answer in (("<<1+1=2>>\n### 2", "2"), ("### 1,000", "1000"), ("### 1000", "1,000"),
                            ("### 2\n### 3", "3"), ("###  Tom is a cat. ", "Tom is a cat.")):
        assert is_correct(written, answer)
    for written, answer in (("### 5.0", "5"), ("### -5", "5"), ("True", "True"), ("", "True")):
        assert not is_correct(written, answer)


@pytest.mark.house
def test_the_command_line_writes_problems_or_ends_in_a_sentence(tmp_path):
    main(f"prosqa {tmp_path}/out --n 9 --seed 7 --split test --nodes 12 --balanced".split())
    records = problems("prosqa", 9, 7, "test", balanced=True, nodes=12)
    assert json.loads((tmp_path / "out").read_text()) == records
    with pytest.raises(SystemExit, match="data.py: .*No such file or directory"):
        main(["prosqa", "/nonexistent/out", "--n", "1"])
