"""What users type, name and ask: options, files, checkpoints, questions. A mistake of theirs ends
in a sentence; a bug in a fork shows its traceback."""
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import traceback
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch

import data
import sample
from conftest import ROOT, tiny_gpt
from curriculum import METHODS, last_stage, stage_at
from data import text_of
from harness import start
from harness.settings import complete, label, parse, read_settings, say_once
from harness.start import load_run
from tasks import TASKS, prosqa
from tasks.common import load_splits, read_examples
from test_train import PRONTOQA, SHORT, STAGES, TINY, train, weights

pytestmark = pytest.mark.house
GOOD = {"question": "Tom is a cat. Is Tom a cat or dog?", "steps": ["Tom is a cat."],
        "answer": "Tom is a cat."}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoint of a finished run, whose last stage has two thoughts."""
    out_dir = tmp_path_factory.mktemp("run")
    train(*PRONTOQA, *TINY, *STAGES, "--out_dir", out_dir)
    return str(out_dir / "ckpt.pt")


@pytest.fixture
def refusal(capsys):
    """A function: a command and its arguments -> the sentence in which it ends."""
    def end_of(command, *args):
        with pytest.raises(SystemExit) as end:
            command(*args)
        assert end.value.code not in (0, None)
        return end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    return end_of


@pytest.fixture
def asked(capsys):
    """A function: arguments of sample.py -> what it prints."""
    def printed(*args):
        sample.main([*map(str, args)])
        return capsys.readouterr().out
    return printed


# --------------------------------------------------------------------------------------------------
# Options

def test_the_papers_recipe_is_that_of_section_5_1():
    recipes = {"prontoqa": (1, 6, False, 5, 5), "prosqa": (1, 6, False, 5, 5),
               "gsm8k": (2, 3, True, 6, 3)}
    for task, stages in recipes.items():
        s = complete({"task": task, "init": "gpt2"})
        assert stages == (s.c_thought, s.max_latent_stage, s.extra_stage, s.epochs_stage_0,
                          s.epochs_per_stage)
        assert (s.batch_size, s.learning_rate, s.weight_decay, s.epochs) == (128, 1e-4, 0.01, 50)
        assert (s.grad_clip, s.warmup_steps, s.decay_epochs, s.reset_optimizer) == (0, 0, 0, True)


@pytest.mark.parametrize("given, saved, expected", [
    ({}, None, {"data": "balanced", "max_latent_stage": 4, "epochs": 16}),
    ({"hops": 5}, None, {"max_latent_stage": 7}),
    ({"hops": 5, "steps": "sentences", "epochs": 14}, None, {"max_latent_stage": 6, "epochs": 14}),
    ({"task": "gsm8k", "most_steps": 5}, None, {"data": "generated", "max_latent_stage": 5}),
    ({"task": "prosqa", "data": "official"}, None,  # its steps are sentences
     {"steps": "sentences", "eot": True, "max_latent_stage": 6, "nodes": 28, "n_train": 0}),
    ({"nodes": 28}, {"max_latent_stage": 3}, {"task": "prosqa", "max_latent_stage": 7}),
    ({}, {"nodes": 9, "n_layer": 3, "max_latent_stage": 3},
     {"nodes": 9, "n_layer": 3, "max_latent_stage": 3}),
    ({"data": "official"}, {}, {"n_train": 0, "steps": "sentences", "tokenizer": "word"})])
def test_what_is_not_given_follows_from_the_task_the_sizes_and_the_checkpoint(
        given, saved, expected):
    if saved is not None:
        given, saved = given | {"init": "ckpt.pt"}, complete({"task": "prosqa", **saved})
    s = complete(given, saved)
    assert {name: getattr(s, name) for name in expected} == expected


def test_a_run_of_any_size_and_a_quick_one_of_any_method_reaches_the_last_stage():
    given = [{"task": "prosqa", "nodes": 28}, {"hops": 6}, {"task": "gsm8k", "most_steps": 5}]
    given += [{"task": task, "method": method, "quick": True} for task in TASKS
              for method in METHODS]
    for s in map(complete, given):
        assert stage_at(s.epochs - 1e-3, s.curriculum()) == last_stage(s.curriculum())


def test_a_quick_run_says_that_it_is_no_result_and_does_what_was_typed(tmp_path, capsys):
    result = train(*PRONTOQA, "--quick", "--n_train", 32, "--n_test", 3, "--out_dir", tmp_path)
    out = capsys.readouterr().out
    assert (result["test_n"], result["stage"]) == (3, 3)
    assert out.startswith("on cpu: ") and "\nstage 3 of coconut: 3 thoughts; accur" in out
    assert "(no result: --quick)" in out and out.count("\nthought 3  norm") == 3


def test_help_has_the_values_of_the_task_in_question_and_no_other_tasks_sizes(capsys):
    with pytest.raises(SystemExit):
        parse(["--task", "prosqa", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "the highest; the next two options lower it [0.006]" in out and "--nodes" in out
    assert "--hops" not in out and out.index("the run:") < out.index("training:")


@pytest.mark.parametrize("args, message", [
    (["--task", "chess"], "invalid choice: 'chess'"),
    (["--device", "abacus"], "no device abacus here"),
    (["--data", "official"], "no ProntoQA files were released"),
    (["--init", "gpt3"], "no weights at gpt3: name a file, a folder, or gpt2"),
    (["--hops", "7"], "hops must be 1..6"),
    (["--init", "gpt2", "--n_layer", "3"], "--n_layer contradicts the weights: --init gpt2 has it"),
    (["--init", "{run}", "--n_layer", "3"], "--n_layer contradicts the weights: --init "),
    (["--n_embd", "30"], "--n_embd 30 must be even, and a multiple of --n_head"),
    (["--batch_size", "0"], "--batch_size must be 1 or more, not 0"),
    (["--learning_rate", "nan"], "--learning_rate must be 0 or more, not nan"),
    (["--uniform_prob", "2"], "--uniform_prob must be 0 to 1, not 2"),
    (["--n_test", "0"], "generated problems have no end: --n_train, --n_valid, --n_test must be "),
    (["--block_size", "50", "--n_train", "9"], "no problem fits into 50 tokens"),
    (["--resume"], "nothing to resume: there is no")])
def test_a_wrong_option_ends_in_a_sentence(tmp_path, args, message, refusal, run):
    args = [arg.format(run=run) for arg in args]
    assert message in refusal(train, *args, "--out_dir", tmp_path)
    assert not (tmp_path / "ckpt.pt").exists()


@pytest.mark.parametrize("given, note", [
    ({"nodes": 20}, "--nodes changes nothing: --task prontoqa has the sizes hops, "),
    ({"data": "official", "grow": 2}, "--grow changes nothing: --data official holds the "),
    ({"method": "cot", "c_thought": 2}, "--c_thought changes nothing: --method cot has no "),
    ({"method": "no_cot", "uniform_prob": 0.1}, "--uniform_prob changes nothing: no stages"),
    ({"icot_tokens": 3}, "--icot_tokens changes nothing: it is for icot")])
def test_an_option_without_effect_brings_a_note(given, note, capsys):
    complete(given)
    assert f"note: {note}" in capsys.readouterr().out


def test_settings_of_a_patch_are_said_kept_in_the_label_and_not_resumed(
        tmp_path, run, asked, refusal):
    ckpt = torch.load(run, weights_only=True)
    ckpt["settings"]["noise"] = 0.3
    torch.save(ckpt, tmp_path / "ckpt.pt")
    say_once.cache_clear()  # another test may have heard it
    printed = asked("--ckpt", tmp_path / "ckpt.pt", "--question", "Is it?")
    assert "note: settings that this version does not have: noise = 0.3\n" in printed
    assert label(read_settings(ckpt["settings"])).endswith(" --noise 0.3")
    assert "does not have: noise; resume it with the code that made it" in refusal(
        train, "--resume", "--out_dir", tmp_path)


@pytest.mark.parametrize("name", ["tasks.prontoqa.draw", "train.think", "model.GPT.__init__"])
def test_a_forks_bug_shows_its_traceback(tmp_path, monkeypatch, run, name):
    def bug(*args, **kwargs):
        raise ValueError("of the fork")

    monkeypatch.setattr(name, bug)
    for options in ([], ["--init", run]):
        with pytest.raises(ValueError, match="of the fork") as error:
            train(*PRONTOQA, *SHORT, *options, "--out_dir", tmp_path)
        assert traceback.extract_tb(error.tb)[-1].line == 'raise ValueError("of the fork")'


# --------------------------------------------------------------------------------------------------
# Files of problems

@pytest.mark.parametrize("content, message", [
    (b" \n", "holds no problems"),
    (b"[" * 100_000, "is not valid JSON"),
    (json.dumps(GOOD).encode() + b"\n{", "line 2 is not valid JSON"),
    (b"[null]", "record 1 lacks question, steps or answer"),
    (b'{"example1": {"test_example": {"question": "q"}}}', "example1 lacks"),
    ({"question": None}, "record 2: question and answer must be texts"),
    ({"steps": "Tom is a cat."}, "record 2: question and answer must be texts, steps a list of "),
    ({"question": " \n"}, "record 2 has an empty question or answer"),
    (b"# 1 problem\n1 + 1?||<<1+1=2>>", "line 2 has an empty question or answer"),
    (b"1 + 1?||That is <<1+1=2>> 2 #### 2", "line 1 has text beside its steps in <<..>>: 'That is"),
    ({"answer": "#5"}, "record 2 has a # in its answer"),
    ({"question": "Is \ud800 a cat?"}, "record 2 has half a character"),
    (gzip.compress(b"[]"), "no text in UTF-8, or packed"),
    (b"version https://git-lfs.github.com/spec/v1\n", "is a Git-LFS pointer: run `git lfs pull`"),
    (json.dumps([GOOD]).encode(), "has 1 problems, too few to split"),
    (None, "it is no file")])
def test_a_malformed_file_is_refused_in_a_sentence(tmp_path, content, message, refusal):
    path = tmp_path / "problems.json"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(json.dumps([GOOD, GOOD | content]).encode() if isinstance(content, dict)
                         else content)
    text = refusal(train, "--data", path, "--out_dir", tmp_path / "run")
    assert text.startswith("train.py: ") and "problems.json" in text and message in text
    assert "\n" not in text


@pytest.mark.parametrize("content, steps", [
    ("Q?||John has 2 cats. He buys 1. #### 3", ["John has 2 cats. He buys 1."]),
    ("Q?||<<1 + 1 = 2>> <<2*3=6>> #### 6", ["<<1 + 1 = 2>>", "<<2*3=6>>"]),
    ("Q?|| #### 6", []),
    ("\n".join(json.dumps(GOOD | {"steps": ["Carry the one", "12+3=15"]}) for _ in range(2)),
     ["Carry the one", "12+3=15"]),
    ("[Q] Tom?||<<5+1=6>> #### 6", ["<<5+1=6>>"]),
    (json.dumps({"data": [GOOD]}), GOOD["steps"]), (json.dumps(GOOD), GOOD["steps"])])
def test_text_is_trained_as_it_was_written(tmp_path, content, steps):
    (tmp_path / "file").write_text(content)
    for example in read_examples(tmp_path / "file"):
        assert example.steps == steps
        assert text_of(example) == "\n".join([example.question, *steps, "### " + example.answer])


def test_a_folders_files_may_have_other_names(tmp_path):
    for name in ("gsm_train.json", "dev.jsonl", "gsm8k_test.txt"):
        (tmp_path / name).write_text(f"{name}?||<<1+1=2>> #### 2" if name.endswith("txt") else
                                     json.dumps(GOOD | {"question": f"{name}?"}))
    drawn, valid, test = load_splits(str(tmp_path), "gsm8k", {}, 0, 0, 0, 0, 0)
    assert [e.question for e in drawn(0) + valid + test] == [
        "gsm_train.json?", "dev.jsonl?", "gsm8k_test.txt?"]


@pytest.mark.parametrize("command, environment", [
    ("{python} sample.py --index 1 --device cpu | head -1", {}),
    ("{python} data.py prosqa {out} --n 9 --nodes 8 | true", {}),
    ("{python} sample.py --ckpt {run} --question 'Is \u03b1 one?'", {"PYTHONIOENCODING": "ascii"}),
    ("{python} sample.py < /dev/null", {})])
def test_no_pipe_and_no_terminal_ends_a_program_in_a_traceback(
        tmp_path, run, command, environment):
    command = command.format(python=sys.executable, run=run, out=tmp_path / "out")
    done = subprocess.run(command, shell=True, cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, **environment})
    assert done.returncode == 0 and not done.stderr


def test_a_full_disk_keeps_the_problems_that_were_there(tmp_path):
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(SystemExit, match="cannot write .*File too large.*still there"):
            data.main(["prosqa", str(tmp_path / "x.json"), "--n", "1000"])

    (tmp_path / "x.json").write_text("good")
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0 and (tmp_path / "x.json").read_text() == "good"
    assert os.listdir(tmp_path) == ["x.json"]


def test_no_problem_is_both_trained_on_and_tested_on_and_none_counts_twice(tmp_path, capsys):
    for split, numbers in {"train": range(10), "valid": (3, 20, 4), "test": (4, 5, 5, 21)}.items():
        records = [{**GOOD, "question": str(i)} for i in numbers]
        (tmp_path / f"{split}.json").write_text(json.dumps(records))
    drawn, *others = load_splits(str(tmp_path), "prosqa", {}, 0, 0, 0, 0, 0)
    questions = [" ".join(e.question for e in examples) for examples in (drawn(0), *others)]
    assert questions == ["0 1 2 6 7 8 9", "3 20", "4 5 21"]
    out = capsys.readouterr().out
    assert "left out 3 of 10 problems for training" in out
    assert "left out 1 of 4 problems of the test split, as they repeat others\n" in out
    assert "left out 1 of 3 problems of the validation split, as they repeat others or are" in out
    assert len(start.tested_problems(complete({"task": "prosqa", "data": str(tmp_path)}))) == 3


def test_official_data_is_fetched_whole_or_not_at_all(tmp_path, monkeypatch, refusal):
    def urlopen(url):
        if url in broken:
            raise IncompleteRead(b"[", 100)
        return io.BytesIO(page(url))

    def page(url):
        return json.dumps([{**GOOD, "question": url}]).encode()

    monkeypatch.chdir(tmp_path)
    urls = [f"http://127.0.0.1:9/{split}" for split in ("train", "valid", "test")]  # nobody listens
    digests = [hashlib.sha256(page(url)).hexdigest() for url in urls]
    digests[0] = hashlib.sha1(b"blob %d\0" % len(page(urls[0])) + page(urls[0])).hexdigest()
    released = {f"prosqa_{url.rpartition('/')[2]}.json": pair
                for url, *pair in zip(urls, urls, digests)}
    monkeypatch.setattr(prosqa, "OFFICIAL", released)
    broken, official = urls[1:2], (train, "--task", "prosqa", "--data", "official")
    assert "refused" in refusal(*official)
    monkeypatch.setattr("tasks.common.urlopen", urlopen)
    assert "prosqa_valid.json yourself, or use --data generated" in refusal(*official)
    assert os.listdir("data") == ["prosqa_train.json"]
    broken.clear()
    drawn, valid, test = load_splits("official", "prosqa", {}, 0, 0, 0, 0, 0)
    assert [e.question for e in drawn(0) + valid + test] == urls
    os.remove("data/prosqa_test.json")
    monkeypatch.setitem(prosqa.OFFICIAL, "prosqa_test.json", (urls[2], digests[1]))
    assert "is not the file that was released" in refusal(*official)


# --------------------------------------------------------------------------------------------------
# Checkpoints

def test_a_checkpoint_runs_no_code_and_a_foreign_or_damaged_one_is_refused(tmp_path, run, refusal):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    good, path = torch.load(run, weights_only=True), tmp_path / "ckpt.pt"
    whole = Path(run).read_bytes()
    middle = len(whole) // 2
    one_bit_flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    foreign = [b"", b"PK\x03\x04", gzip.compress(b"x" * 1000), whole[:-9], whole[:middle],
               one_bit_flipped, Code(), 5, {"settings": {}}]
    changes = [("settings", "noise", Code()), ("settings", "method", "telepathy"),
               ("config", "n_embd", 10**9), ("config", "sizes", 1), ("config", "n_layer", 1),
               ("run", "leap", 2), ("run", "stage", "last"), ("encoding", "special_tokens", {}),
               ("model", "project.weight", torch.zeros(2, 2))]
    foreign += [{**good, key: {**good[key], name: value}} for key, name, value in changes]
    for value in foreign:
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            torch.save(value, path)
        with pytest.raises(ValueError, match="(?s)cannot read|is no checkpoint of|holds other weigh"
                                             "ts than this version's .*(h.1.ln|project.weight)"):
            load_run(path)
        for options in (["--resume", "--out_dir", tmp_path], ["--init", path, "--out_dir", "none"]):
            assert refusal(train, *options).startswith("train.py: ")
    assert not (tmp_path / "made").exists()


# --------------------------------------------------------------------------------------------------
# sample.py, real data, and GPT-2's weights

def test_sample_shows_each_thought_and_whether_the_answer_is_right(tmp_path, run, asked, refusal):
    printed = asked("--ckpt", run, "--index", 2, "--top", 3)
    assert printed.count("\nthought ") == printed.count("  norm ") == 2
    assert asked("--ckpt", run, "--index", 2, "--n_thoughts", 1).count("\nthought ") == 1
    printed += asked("--index", 0, "--max_new_tokens", 20)  # of a model that is shipped
    assert ": wrong\n" in printed and ": right\n" in printed
    assert f"training steps: {ROOT / 'results' / 'prosqa-balanced.pt'}\n" in printed

    train(*PRONTOQA, "--method", "cot", *TINY, "--max_steps", 1, "--out_dir", tmp_path)
    args = ["--ckpt", str(tmp_path / "ckpt.pt"), "--index", "0"]
    assert "cot on prontoqa, balanced, 1 training steps, unfinished: 0 of 4 epo" in asked(*args)
    assert "trained as cot has no thoughts for --n_thoughts or --top" in refusal(
        sample.main, [*args, "--top", "3"])


def test_sample_answers_questions_of_ones_own_and_names_their_new_words(asked, run, monkeypatch):
    """On the command line, and from the keyboard until an empty line."""
    question = "Every cat is a zebra. Rex is a cat. True or false: Rex is blue."
    printed = asked("--ckpt", run, "--question", question)
    assert f"question   {question}\n" in printed and "\nwritten    '" in printed
    noted, = [line for line in printed.splitlines() if line.startswith("note")]
    assert {"cat", "zebra"} <= {*noted.split(": ")[1].split(", ")} and "true" not in noted.lower()
    monkeypatch.setattr("sys.stdin", io.StringIO("A cat.\n" + "cat " * 600 + "\nRex?\n\nNo.\n"))
    printed = asked("--ckpt", run)
    assert printed.count("\nwritten ") == 2 and "do not fit into block_size" in printed


def test_a_wrong_question_ends_in_a_sentence(run, refusal):
    for args, message in {
            ("--ckpt", "LICENSE"): "cannot read LICENSE",
            ("--ckpt", run, "--index", "6"): "--index must be 0 to 5",
            ("--n_thoughts", "-1"): "argument --n_thoughts: invalid count value: '-1'",
            ("--index", "0", "--n_thoughts", "900"): "do not fit into block_size",
            }.items():
        assert message in refusal(sample.main, args)


@pytest.mark.parametrize("task, name", [("prosqa", "prosqa_valid.json"),
                                        ("gsm8k", "gsm8k_aug_valid.txt"),
                                        ("prontoqa", "prontoqa_5hop_raw.json")])
def test_real_problems_are_trained_on_and_sampled(tmp_path, real_data, task, name, asked):
    result = train("--task", task, "--data", real_data / name, *TINY, *STAGES, "--block_size", 640,
                   "--max_steps", 4, "--out_dir", tmp_path)
    assert (result["step"], result["stage"]) == (4, 1)
    assert "thought 1" in asked("--ckpt", tmp_path / "ckpt.pt", "--index", 1)


def test_gpt2s_weights_are_trained_and_asked(tmp_path, needs_gpt2_vocabulary, asked):
    """Of a file with the layout of the released one, tiny but for its 50,257 rows."""
    tensors, path = tiny_gpt(vocab_size=50257).state_dict(), tmp_path / "pytorch_model.bin"
    torch.save({name: tensor.t() if re.search(r"\.c_.*weight", name) else tensor
                for name, tensor in tensors.items()}, path)
    train("--task", "gsm8k", *SHORT, "--init", path, "--max_steps", 1, "--dropout", 0.2,
          "--out_dir", tmp_path / "run")
    config = weights(tmp_path / "run")["config"]
    assert (config["vocab_size"], config["block_size"], config["dropout"]) == (50261, 64, 0.2)
    assert "written " in asked("--ckpt", tmp_path / "run" / "ckpt.pt", "--question", "Once upon",
                               "--max_new_tokens", 3)
