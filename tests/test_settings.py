"""Options, their defaults, and what train.py and sample.py print."""
import io
import json
import math
import os
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch

import sample
from conftest import ROOT
from curriculum import last_stage, stage_at
from harness.settings import DEFAULTS, complete, defaults, label, read_settings
from harness.start import load_run, start_model
from model import GPT
from tasks import TASKS, prontoqa
from tasks.common import problems
from test_train import ICOT, PRONTOQA, PROSQA, STAGES, TINY, train

pytestmark = pytest.mark.house


# ---------------------------------------------------------------------------------------------
# Defaults

def test_the_papers_recipe_is_that_of_section_5_1():
    recipes = {"prontoqa": (1, 6, False, 5, 5),
               "prosqa": (1, 6, False, 5, 5),
               "gsm8k": (2, 3, True, 6, 3)}
    for task, (c_thought, stages, extra, first, later) in recipes.items():
        s = complete({"task": task, "init": "gpt2"})
        assert (s.c_thought, s.max_latent_stage, s.extra_stage) == (c_thought, stages, extra)
        assert (s.epochs_stage_0, s.epochs_per_stage, s.epochs) == (first, later, 50)
        assert (s.batch_size, s.learning_rate, s.weight_decay, s.grad_clip) == (128, 1e-4, 0.01, 0)
        assert (s.warmup_steps, s.decay_epochs, s.reset_optimizer) == (0, 0, True)
        assert defaults(task, True).keys() >= defaults(task, False).keys() - {*DEFAULTS}


def test_the_default_data_is_balanced_where_the_task_has_it():
    data = {task: complete({"task": task}).data for task in TASKS}
    assert data == {"prontoqa": "balanced", "prosqa": "balanced", "gsm8k": "generated"}


def test_a_size_of_ones_own_leaves_no_written_steps_at_the_last_stage():
    assert complete({}).max_latent_stage == 4 and complete({"hops": 5}).max_latent_stage == 7
    assert complete({"hops": 5, "steps": "sentences"}).max_latent_stage == 6
    assert complete({"task": "gsm8k", "most_steps": 5}).max_latent_stage == 5
    assert complete({"task": "prosqa", "nodes": 28}).max_latent_stage == 7  # names of six hops
    assert complete({"task": "prosqa", "nodes": 28, "steps": "sentences"}).max_latent_stage == 6
    official = complete({"task": "gsm8k", "data": "official"})
    assert (official.c_thought, official.max_latent_stage, official.extra_stage) == (2, 3, True)
    files = complete({"task": "prosqa", "data": "official"})  # its steps are sentences
    assert (files.steps, files.eot, files.max_latent_stage) == ("sentences", True, 6)
    assert (files.icot_tokens, files.icot_all_beyond) == (8, 72)
    assert files.nodes == 28 and official.size() == {"max_value": 99999, "most_steps": 5}


def test_a_size_of_ones_own_reaches_its_last_stage():
    assert [complete({"task": task}).epochs for task in TASKS] == [20, 22, 17]
    assert complete({"hops": 5}).epochs == complete({"hops": 5, "method": "cot"}).epochs == 20
    for given in ({"hops": 5}, {"hops": 6, "steps": "sentences"}, {"data": "official"},
                  {"task": "prosqa", "nodes": 28}, {"task": "gsm8k", "most_steps": 5}):
        s = complete(given)
        assert stage_at(s.epochs - 1, s.curriculum()) == last_stage(s.curriculum())
    assert complete({"hops": 5, "epochs": 14}).epochs == 14  # as asked for


def test_a_run_from_a_checkpoint_has_the_number_of_problems_of_its_own_data():
    files = complete({"init": "gpt2", "task": "prosqa", "data": "official"})
    new = complete({"init": "ckpt.pt", "task": "prosqa"}, files)
    assert new.n_train > 0 and new.steps == "sentences" and new.tokenizer == "gpt2"
    generated = complete({"task": "prosqa", "n_layer": 3})
    new = complete({"init": "ckpt.pt", "task": "prosqa", "data": "official"}, generated)
    assert (new.n_train, new.n_test, new.steps, new.nodes) == (0, 0, "sentences", 28)
    assert (new.batch_size, new.eot, new.tokenizer) == (32, False, "word")


def test_a_run_from_a_checkpoint_has_its_task_and_the_stages_of_larger_problems():
    saved = complete({"task": "prosqa"})
    assert saved.max_latent_stage == 4
    for given, last in (({}, 4), ({"nodes": 28}, 7), ({"nodes": 28, "max_latent_stage": 5}, 5)):
        new = complete({"init": "ckpt.pt", **given}, saved)
        assert (new.task, new.max_latent_stage) == ("prosqa", last)
    chosen = complete({"task": "prosqa", "max_latent_stage": 3})
    assert complete({"init": "ckpt.pt", "nodes": 28}, chosen).max_latent_stage == 3


# ---------------------------------------------------------------------------------------------
# train.py

@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The checkpoint of a run of three stages, and what the run printed."""
    out_dir = tmp_path_factory.mktemp("run")
    with redirect_stdout(io.StringIO()) as printed:
        train(*PRONTOQA, *TINY, *STAGES, "--out_dir", out_dir)
    return str(out_dir / "ckpt.pt"), printed.getvalue()


@pytest.fixture(scope="module")
def unfinished_run(tmp_path_factory):
    """The checkpoint of a run of CoT, which has no thoughts, after one step."""
    out_dir = tmp_path_factory.mktemp("unfinished")
    train(*PRONTOQA, "--method", "cot", *TINY, "--max_steps", 1, "--out_dir", out_dir)
    return str(out_dir / "ckpt.pt")


def test_a_run_prints_its_device_stages_result_and_what_to_do_next(finished_run):
    ckpt, printed = finished_run
    assert printed.startswith("on cpu: ") and "\r" not in printed
    for stage, thoughts in enumerate(["0 thoughts", "1 thought", "2 thoughts"]):
        assert f"stage {stage} of coconut: {thoughts}\n  given    '" in printed
        assert "<|bot|>" + "<|thought|>" * stage + "'\n  learned  '" in printed
    assert "test accuracy" in printed and f"python sample.py --ckpt {ckpt}" in printed


@pytest.mark.parametrize("options, noted", [
    (ICOT, False),  # its last stage comes amid the last epoch
    ([*STAGES, "--epochs", 2], True)])
def test_a_run_that_ends_before_its_last_stage_says_so(tmp_path, capsys, options, noted):
    train(*PRONTOQA, *TINY, *options, "--max_steps", 1, "--out_dir", tmp_path)
    assert ("note: 2 epochs end before stage 2" in capsys.readouterr().out) == noted


def test_no_problems_are_drawn_for_the_words_of_a_model_that_has_them(finished_run):
    model, enc = start_model(complete({"init": finished_run[0]}), drawn=None)
    assert model.config.vocab_size == enc.n_vocab


@pytest.mark.parametrize("args, message", [
    (["--task", "chess"], "invalid choice: 'chess'"),
    (["--method", "magic"], "invalid choice: 'magic'"),
    (["--epochs", "many"], "invalid int value: 'many'"),
    (["--nodez", "3"], "unrecognized arguments: --nodez 3"),
    (["--device", "abacus"], "no device abacus here"),
    (["--data", "/nonexistent"], "cannot read /nonexistent"),
    (["--data", "official"], "no ProntoQA files were released"),
    (["--task", "gsm8k", "--data", "balanced"], "balanced must be off for gsm8k"),
    (["--init", "gpt3"], "no weights at gpt3: name a file, or gpt2"),
    (["--hops", "7"], "hops must be 1..6"),
    (["--init", "gpt2", "--n_layer", "3"], "--n_layer contradicts --init gpt2: it has its own"),
    (["--n_embd", "30"], "--n_embd 30 must be even, and a multiple of --n_head"),
    (["--batch_size", "0"], "--batch_size must be more than 0"),
    (["--learning_rate", "nan"], "--learning_rate must be more than 0"),
    (["--uniform_prob", "2"], "--uniform_prob is a probability"),
    (["--block_size", "50", "--n_train", "9", "--n_valid", "9"],
     "no problem fits into 50 tokens: a model from scratch can have more by --block_size"),
    (["--resume"], "nothing to resume: there is no"),
])
def test_a_wrong_option_ends_in_a_sentence(tmp_path, args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train(*args, "--out_dir", tmp_path)
    last = str(stop.value) if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in last and stop.value.code not in (0, None)
    assert not (tmp_path / "ckpt.pt").exists()


def test_a_run_is_neither_overwritten_nor_resumed_as_another_one(tmp_path):
    options = [*PROSQA, *TINY, "--max_steps", 1, "--out_dir", tmp_path]
    train(*options)
    before = (tmp_path / "ckpt.pt").read_bytes()
    with pytest.raises(SystemExit, match="holds a run: --resume it"):
        train(*options)
    with pytest.raises(SystemExit, match="--nodes is 9, but 8 in the run of"):
        train("--task", "prosqa", "--nodes", 9, "--out_dir", tmp_path, "--resume")
    assert (tmp_path / "ckpt.pt").read_bytes() == before


def test_problems_longer_than_the_block_are_counted(tmp_path, capsys):
    train(*PROSQA, *TINY, "--block_size", 50, "--max_steps", 1, "--out_dir", tmp_path)
    assert "problems: they need more than the 50 tokens of --block_size" in capsys.readouterr().out


def test_files_whose_training_problems_are_all_too_long_end_in_a_sentence(tmp_path):
    for split, nodes in (("train", 40), ("valid", 8), ("test", 8)):
        records = problems("prosqa", 4, 0, split, nodes=nodes)
        (tmp_path / f"{split}.json").write_text(json.dumps(records))
    with pytest.raises(SystemExit, match="train.py: no problem fits into 150 tokens"):
        train("--task", "prosqa", "--data", tmp_path, *TINY, "--block_size", 150,
              "--out_dir", tmp_path / "out")


# ---------------------------------------------------------------------------------------------
# sample.py

def asked(capsys, *args):
    sample.main([*map(str, args)])
    return capsys.readouterr().out


def test_sample_shows_each_thought_and_whether_the_answer_is_right(finished_run, capsys):
    """As a person runs it."""
    done = subprocess.run([sys.executable, "sample.py", "--ckpt", finished_run[0], "--index", "2",
                           "--top", "3"], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    thoughts = [line for line in done.stdout.splitlines() if line.startswith("thought")]
    assert len(thoughts) == 2 and all("norm" in line for line in thoughts)
    assert "right" in done.stdout or "wrong" in done.stdout
    assert "unfinished" not in done.stdout
    fewer = asked(capsys, "--ckpt", finished_run[0], "--index", 2, "--n_thoughts", 1)
    assert fewer.count("\nthought ") == 1


def test_sample_asks_a_shipped_model_where_none_is_named(capsys):
    printed = asked(capsys, "--index", 0, "--max_new_tokens", 20)
    assert printed.startswith("coconut on prosqa, balanced, ")
    assert f"training steps: {ROOT / 'results' / 'prosqa-balanced.pt'}\n" in printed
    assert "\nthought 1 " in printed


def test_sample_says_that_a_run_is_unfinished(unfinished_run, capsys):
    printed = asked(capsys, "--ckpt", unfinished_run, "--index", 0)
    assert "cot on prontoqa, balanced, 1 training steps, unfinished: 0 of 4 epochs: " in printed


def test_sample_answers_a_question_of_ones_own_and_names_its_new_words(finished_run, capsys):
    question = "Every cat is a zebra. Rex is a cat. True or false: Rex is blue."
    printed = asked(capsys, "--ckpt", finished_run[0], "--question", question)
    assert f"question   {question}\n" in printed and "\nwritten    '" in printed
    noted, = [line for line in printed.splitlines() if line.startswith("note")]
    assert noted.startswith("note       words never seen in training: ")
    assert {"cat", "zebra"} <= {*noted.split(": ")[1].split(", ")}
    assert "true" not in noted.lower()


def test_sample_answers_questions_from_the_keyboard(finished_run, capsys, monkeypatch):
    """Until an empty line."""
    questions = ["Rex is a cat.", "Every cat is a zebra.", "", "Not asked."]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions) + "\n"))
    printed = asked(capsys, "--ckpt", finished_run[0])
    assert printed.count("\nwritten ") == 2 and "Not asked" not in printed


@pytest.mark.parametrize("args, message", [
    (["--ckpt", "LICENSE"], "cannot read LICENSE"),
    (["--ckpt", "none.pt"], "cannot read none.pt"),
    (["--ckpt", "{run}", "--index", "6"], "--index must be 0 to 5"),
    (["--ckpt", "{run}", "--index", "0", "--n_thoughts", "-1"],
     "argument --n_thoughts: invalid count value: '-1'"),
    (["--ckpt", "{run}", "--index", "0", "--n_thoughts", "900"], "do not fit into block_size"),
    (["--ckpt", "{run}", "--question", "Every cat is a zebra. " * 900], "do not fit into block_"),
    (["--ckpt", "{cot}", "--index", "0", "--top", "3"],
     "a model trained as cot has no thoughts for --n_thoughts or --top"),
    (["--ckpt", "{cot}", "--index", "0", "--n_thoughts", "1"],
     "a model trained as cot has no thoughts for --n_thoughts or --top"),
    (["--init", "gpt2"], "--init needs a --question"),
    (["--init", "gpt2", "--question", "Once", "--top", "3"], "has no thoughts for --n_thoughts"),
    (["--init", "gpt2", "--ckpt", "{run}", "--question", "Once"], "not allowed with argument"),
    (["--init", "{run}", "--question", "Once"], "is a checkpoint of train.py: name it by --ckpt"),
])
def test_a_wrong_question_ends_in_a_sentence(finished_run, unfinished_run, capsys, args, message):
    args = [arg.format(run=finished_run[0], cot=unfinished_run) for arg in args]
    with pytest.raises(SystemExit) as stop:
        sample.main(args)
    last = str(stop.value) if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in last and stop.value.code not in (0, None)


# ---------------------------------------------------------------------------------------------
# Real data, and GPT-2's weights

@pytest.mark.parametrize("task, name, tokenizer", [
    ("prosqa", "prosqa_valid.json", "word"),
    ("prosqa", "prosqa_valid.json", "gpt2"),
    ("gsm8k", "gsm8k_aug_valid.txt", "word"),
    ("prontoqa", "prontoqa_5hop_raw.json", "word"),
])
def test_real_problems_are_trained_on_and_sampled(
        tmp_path, real_data, task, name, tokenizer, request, capsys):
    if tokenizer == "gpt2":
        request.getfixturevalue("needs_gpt2_vocabulary")
    result = train("--task", task, "--data", real_data / name, "--tokenizer", tokenizer,
                   *TINY, *STAGES, "--block_size", 640, "--max_steps", 4, "--out_dir", tmp_path)
    assert result["step"] == 4 and result["stage"] == 1 and math.isfinite(result["test_loss"])
    printed = asked(capsys, "--ckpt", tmp_path / "ckpt.pt", "--index", 1, "--max_new_tokens", 5)
    assert "thought 1" in printed


def test_gpt2s_weights_get_the_new_tokens_and_train(tmp_path, needs_gpt2_vocabulary, capsys):
    """A file with the layout of the released one, tiny but for its 50,257 rows; then plain text."""
    from test_gpt2 import released_file
    torch.save(released_file(1, 64, 50257, 256), tmp_path / "pytorch_model.bin")
    train("--task", "gsm8k", "--init", tmp_path / "pytorch_model.bin", "--n_train", 4,
          "--n_valid", 2, "--n_test", 2, "--max_steps", 1, "--max_new_tokens", 3,
          "--learning_rate", 1e-12, "--out_dir", tmp_path / "run")
    _, model, enc = load_run(tmp_path / "run" / "ckpt.pt")
    assert model.config.vocab_size == enc.n_vocab == 50261
    torch.testing.assert_close(model.wte.weight[50257:],
                               model.wte.weight[enc.encode_single_token("<<")].expand(4, -1))
    printed = asked(capsys, "--init", tmp_path / "pytorch_model.bin", "--question", "Once upon",
                    "--max_new_tokens", 3)
    assert "Once upon" in printed
    with pytest.raises(SystemExit, match="do not fit into block_size 256"):
        sample.main(["--init", str(tmp_path / "pytorch_model.bin"), "--question", "Once " * 300])


@pytest.mark.parametrize("given, note", [
    ({"nodes": 20}, "--nodes changes nothing: --task prontoqa has the sizes hops, "),
    ({"method": "cot", "c_thought": 2}, "--c_thought changes nothing: --method cot has no "),
    ({"method": "no_thought", "eot": False}, "--eot changes nothing: --method no_thought has no "),
    ({"method": "no_cot", "uniform_prob": 0.1}, "--uniform_prob changes nothing: no stages"),
])
def test_an_option_without_effect_brings_a_note(given, note, capsys):
    complete(given)
    assert f"note: {note}" in capsys.readouterr().out
    complete({})
    assert not capsys.readouterr().out


def test_settings_of_a_patch_are_said_kept_in_the_label_and_not_resumed(tmp_path, capsys):
    train(*PRONTOQA, *TINY, "--max_steps", 1, "--out_dir", tmp_path)
    ckpt = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    ckpt["settings"]["noise"] = 0.3
    torch.save(ckpt, tmp_path / "ckpt.pt")
    sample.main(["--ckpt", str(tmp_path / "ckpt.pt"), "--question", "Is it?"])
    told = capsys.readouterr().out
    assert "note: settings that this version does not have: noise = 0.3\n" in told
    assert label(read_settings(ckpt["settings"])).endswith(" --noise 0.3")
    with pytest.raises(SystemExit, match="this version does not have: noise; resume it with the"):
        train("--resume", "--out_dir", tmp_path)


def test_a_run_is_not_resumed_on_fewer_problems_than_it_has_done(tmp_path):
    path, records = tmp_path / "problems.json", problems("prosqa", 60, 0, nodes=8)
    path.write_text(json.dumps(records))
    train("--task", "prosqa", "--data", path, *TINY, "--n_train", 0, "--max_steps", 5,
          "--out_dir", tmp_path / "run")
    path.write_text(json.dumps(records[:30]))
    with pytest.raises(SystemExit, match="has fewer problems than when the run began"):
        train("--resume", "--out_dir", tmp_path / "run")


# ---------------------------------------------------------------------------------------------
# A fork's bugs show their tracebacks

def bug(*args, **kwargs):
    raise ValueError("of the fork")


def test_a_bug_in_a_generator_is_no_users_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(prontoqa, "draw", bug)
    with pytest.raises(ValueError, match="of the fork"):
        train(*PRONTOQA, *TINY, "--out_dir", tmp_path)


def test_a_bug_in_the_loop_or_the_model_is_no_users_mistake(tmp_path, monkeypatch):
    train(*PRONTOQA, *TINY, "--max_steps", 1, "--out_dir", tmp_path)
    question = ["--ckpt", str(tmp_path / "ckpt.pt"), "--question", "Is it?"]
    for place in (("sample.think", "model.think"), ("model.GPT.__init__",)):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match="of the fork"):
            for name in place:
                patch.setattr(name, bug)
            sample.main(question)


def test_a_checkpoint_says_all_names_that_differ_from_the_models(tmp_path, monkeypatch):
    train(*PRONTOQA, *TINY, "--max_steps", 1, "--out_dir", tmp_path)
    init = GPT.__init__

    def with_a_projection(model, config):
        init(model, config)
        model.project = torch.nn.Linear(config.n_embd, config.n_embd)

    monkeypatch.setattr(GPT, "__init__", with_a_projection)
    with pytest.raises(ValueError, match="(?s)holds other weights.*project.weight.*project.bias"):
        load_run(tmp_path / "ckpt.pt")
