"""Training, evaluation, resuming and sampling, by the commands that a person types."""
import io
import json
import math
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch

import sample
import train as training
from conftest import ROOT, tiny_gpt
from curriculum import METHODS, Curriculum, build, last_stage, stage_at
from data import count_learned, encode, markers_of, text_of, word_encoding
from harness import ranks
from harness.keeper import Run
from harness.settings import DEFAULTS, complete, defaults
from harness.start import load_run, new_optimizer, start_model
from sample import batch_loss, evaluate
from tasks import TASKS
from tasks.common import problems
from tasks.record import Example

PROSQA = "--task prosqa --nodes 8".split()
PRONTOQA = "--task prontoqa --hops 1".split()
SMALL = "--n_layer 2 --n_head 2 --n_embd 16".split()
SHORT = ("--n_train 24 --n_valid 6 --n_test 6 --batch_size 8 --epochs 4 "
         "--max_new_tokens 20").split()
TINY = SMALL + SHORT
STAGES = "--epochs_stage_0 1 --epochs_per_stage 1 --max_latent_stage 2 --no-extra_stage".split()


def train(*args):
    """train.py's main, in this process."""
    return training.main(["--device", "cpu", *map(str, args)])


def weights(out_dir):
    return torch.load(os.path.join(out_dir, "ckpt.pt"), weights_only=True)


def run(script, *args, stdin=None):
    """A script as a person runs it; returns the finished process."""
    return subprocess.run([sys.executable, script, *map(str, args)], cwd=ROOT, text=True,
                          input=stdin, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def lines(out_dir):
    with open(os.path.join(out_dir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


# ---------------------------------------------------------------------------------------------
# The loss and the loop

def examples_and_encoding(task="prosqa", n=8, **size):
    records = problems(task, n, seed=0, **(size or {"nodes": 8}))
    examples = [Example(r["question"], r["steps"], r["answer"]) for r in records]
    return examples, word_encoding(map(text_of, examples))


def test_the_loss_counts_other_tokens_than_the_supervised_ones():
    examples, enc = examples_and_encoding()
    model, c = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), Curriculum(max_latent_stage=2)
    sequences = [build(encode(e, enc), 1, c, markers_of(enc)) for e in examples]
    expected = 0.0
    for ids, targets in sequences:  # one thought: two forward passes of one row
        x, column = model.embed(torch.tensor([ids])), ids.index(markers_of(enc).thought)
        x = torch.cat([x[:, :column], model(x)[0][:, column - 1:column], x[:, column + 1:]], dim=1)
        log_p = model.lm_head(model(x)[0][0]).log_softmax(dim=-1)
        expected -= sum(log_p[t - 1, ids[t]] for t in range(len(ids)) if targets[t] >= 0).item()
    loss = batch_loss(model, sequences, markers_of(enc).thought).item()
    assert abs(loss - expected) < 1e-3 * expected
    assert count_learned(sequences) == sum(t >= 0 for _, targets in sequences for t in targets)


def test_micro_batches_train_otherwise_than_the_whole_batch(tmp_path):
    """Rows differ in their number of supervised tokens: a mean of means would be another loss."""
    for size in (8, 3):
        train(*PROSQA, *TINY, "--micro_batch", size, "--max_steps", 2,
              "--out_dir", tmp_path / str(size))
    whole, micro = (weights(tmp_path / str(size))["model"] for size in (8, 3))
    for name in whole:
        torch.testing.assert_close(micro[name], whole[name], atol=2e-5, rtol=1e-4)


def test_bfloat16_changes_nothing_or_more_than_rounding(tmp_path):
    for dtype in ("float32", "bfloat16"):
        train(*PROSQA, *TINY, "--n_valid", 2, "--n_test", 2, "--max_new_tokens", 2,
              "--max_steps", 2, "--dtype", dtype, "--out_dir", tmp_path / dtype)
    exact, rounded = (weights(tmp_path / dtype) for dtype in ("float32", "bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in rounded["model"].values())
    assert exact["run"]["nats"] != rounded["run"]["nats"]
    assert exact["run"]["nats"] == pytest.approx(rounded["run"]["nats"], rel=0.02)


@pytest.mark.parametrize("task", TASKS)
def test_a_tiny_batch_cannot_be_memorized(task):
    """Eight problems, with thoughts: were something cut or misplaced, the loss would stay up."""
    size = {"prosqa": {"nodes": 8},
            "prontoqa": {"hops": 1},
            "gsm8k": {"max_value": 50, "most_steps": 2}}[task]
    examples, enc = examples_and_encoding(task, 8, **size)
    model, c = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), Curriculum()
    marks = markers_of(enc)
    sequences = [build(encode(e, enc), 1, c, marks) for e in examples]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(100):
        loss = batch_loss(model, sequences, marks.thought) / count_learned(sequences)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    result = evaluate(model, examples, 1, c, enc, batch_size=3, max_new_tokens=60)
    assert result["accuracy"] == 1 and result["loss"] < 0.1


def test_tokens_are_counted_otherwise_than_in_the_papers_table(monkeypatch):
    """Thoughts and written tokens; not markers, pauses or the end token."""
    def five_written_tokens(model, prompts, *_):
        return [("### no", 5)] * len(prompts)

    monkeypatch.setattr(sample, "answers", five_written_tokens)
    examples, enc = examples_and_encoding()
    model = tiny_gpt(vocab_size=enc.n_vocab, block_size=256)
    for method, expected in {"coconut": 5 + 6, "no_curriculum": 5 + 6, "pause_as_thought": 5,
                             "pause": 5, "no_cot": 5, "cot": 5}.items():
        c = Curriculum(method, c_thought=2, max_latent_stage=3)
        result = evaluate(model, examples, 4, c, enc, batch_size=4, max_new_tokens=9)
        assert result["tokens"] == expected and result["accuracy"] == 0 and result["n"] == 8


@pytest.mark.parametrize("number", [1, 3])
def test_an_answer_is_counted_for_another_problem(monkeypatch, number):
    """Every third problem is right, on one rank or on three that share the problems."""
    examples, enc = examples_and_encoding(n=20)
    third = {e.question: e.answer for e in examples[::3]}
    monkeypatch.setattr(sample, "prompts_of", lambda examples, *_: examples)
    monkeypatch.setattr(sample, "written_answers", lambda model, prompts, *_: [
        ("### " + third.get(e.question, "no"), 5) for e in prompts])
    monkeypatch.setattr(ranks, "RANKS", number)
    monkeypatch.setattr(sample, "total", lambda numbers, device: numbers)  # each rank's own
    model, found = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), []
    for rank in range(number):
        monkeypatch.setattr(ranks, "RANK", rank)
        found.append(evaluate(model, examples, 0, Curriculum("cot"), enc, 4, 9))
    right = [sum(map(int, column)) for column in zip(*(result["right"] for result in found))]
    assert right == [i % 3 == 0 for i in range(20)]
    assert len({result["problems"] for result in found}) == 1
    fewer = evaluate(model, examples[1:], 0, Curriculum("cot"), enc, 4, 9)
    assert fewer["problems"] != found[0]["problems"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_does_not_train_or_evaluate(tmp_path, method):
    schedule = {"stage": STAGES,
                "tokens": "--epochs_stage_0 1 --icot_tokens 5 --icot_all_beyond 9".split(),
                "all": ["--max_latent_stage", 2] if METHODS[method].fill else [],
                "none": []}[METHODS[method].drop]
    result = train(*PROSQA, "--method", method, *TINY, *schedule, "--out_dir", tmp_path)
    header, *epochs, last = lines(tmp_path)
    assert header["settings"]["method"] == method and header["machine"]
    assert len(epochs) == 4 and last == result
    assert len(last["test_right"]) == 6 and "val_right" not in epochs[0]
    assert result["test_n"] == 6 and math.isfinite(result["test_loss"])
    stages = [line["stage"] for line in epochs]
    assert stages == {"stage": [0, 1, 2, 2],
                      "tokens": [0, 4, 9, 9],
                      "all": [last["stage"]] * 4,
                      "none": [0] * 4}[METHODS[method].drop]


def test_a_new_stage_comes_silently_or_keeps_the_optimizer(tmp_path, capsys):
    train(*PROSQA, *TINY, *STAGES, "--reset_optimizer", "--out_dir", tmp_path / "reset")
    printed = capsys.readouterr().out
    assert printed.startswith("on cpu: ") and lines(tmp_path / "reset")[0]["device"] == "cpu"
    for stage, thoughts in enumerate(["0 thoughts", "1 thought", "2 thoughts"]):
        assert f"stage {stage} of coconut: {thoughts}\n  given    '" in printed
        assert "<|bot|>" + "<|thought|>" * stage + "'\n  learned  '" in printed
    assert "test accuracy" in printed and "python sample.py --ckpt" in printed
    train(*PROSQA, *TINY, *STAGES, "--out_dir", tmp_path / "keep")
    steps = {name: weights(tmp_path / name)["optimizer"]["state"][0]["step"].item()
             for name in ("reset", "keep")}
    assert steps == {"reset": 6, "keep": 12}  # 3 steps an epoch; two epochs at the last stage


def test_icot_removes_an_epochs_tokens_at_once_or_keeps_the_optimizer(tmp_path, capsys):
    """Three steps an epoch, and a token before the second, the third, the next epoch's first .."""
    train(*PROSQA, *TINY, *ICOT, "--reset_optimizer", "--out_dir", tmp_path)
    assert [line["stage"] for line in lines(tmp_path)[1:]] == [0, 2, 5, 7, 7]
    printed = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"\nstage (\d) of icot", printed)] == [*range(8)]
    assert "note:" not in printed, "the last stage comes amid the last epoch"
    assert weights(tmp_path)["optimizer"]["state"][0]["step"] == 2  # at the last stage
    run = weights(tmp_path)["run"]
    assert (run["step"], run["stage_step"]) == (12, 2)


def test_an_optimizer_without_its_state_steps_otherwise_than_a_new_one():
    """To the bit, after training and after a checkpoint; a new stage clears the state."""
    def gradients_at(step, model):
        generator = torch.Generator().manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)

    ends = []
    for way in ("cleared", "new", "cleared after loading"):
        model, s = tiny_gpt(), complete({})
        optimizer = new_optimizer(s, model)
        for step in range(6):
            if step == 3 and way == "new":
                optimizer = new_optimizer(s, model)
            elif step == 3:
                if way == "cleared after loading":
                    saved, optimizer = optimizer.state_dict(), new_optimizer(s, model)
                    optimizer.load_state_dict(saved)
                optimizer.state.clear()
            gradients_at(step, model)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (step + 1)
            optimizer.step()
        ends.append((model.state_dict(), optimizer.state_dict()["state"]))
    for weights_of_other, state_of_other in ends[1:]:
        for name, tensor in ends[0][0].items():
            assert torch.equal(tensor, weights_of_other[name])
        for index, state in ends[0][1].items():
            for name, value in state.items():
                assert torch.equal(value, state_of_other[index][name])


def test_the_learning_rate_does_not_warm_up_after_a_reset_or_fall_at_the_end():
    s = complete({"epochs": 10, "decay_epochs": 2, "warmup_steps": 4, "learning_rate": 1.0})

    def rate(epoch, batch, stage_step):
        return training.learning_rate(s, Run(epoch, batch, stage_step=stage_step), 5)

    assert [rate(3, 0, done) for done in (0, 1, 3, 8)] == [0.25, 0.5, 1, 1]
    assert [rate(8, batch, 99) for batch in (0, 5)] == [1, 0.5] and rate(9, 4, 99) < 0.11
    paper = complete({"init": "gpt2"})
    assert training.learning_rate(paper, Run(49, 4, stage_step=0), 5) == 1e-4


ICOT = "--method icot --epochs_stage_0 1 --icot_tokens 3 --icot_all_beyond 7".split()


@pytest.mark.parametrize("cut, options", [
    *((cut, [*STAGES, "--uniform_prob", 0.3]) for cut in (2, 3, 7)),
    (3, [*STAGES, "--optimizer", "muon"]),
    *((cut, ICOT) for cut in (4, 5))])
def test_a_resumed_run_differs_from_the_uninterrupted_one_in_any_bit(tmp_path, cut, options):
    """Amid an epoch, at its end, and in a later stage; with dropout and stage mixing. icot begins
    stages amid an epoch."""
    options = [*PRONTOQA, *TINY, *options, "--dropout", 0.2]
    train(*options, "--out_dir", tmp_path / "whole")
    train(*options, "--out_dir", tmp_path / "cut", "--max_steps", cut)
    assert weights(tmp_path / "cut")["run"]["step"] == cut
    train("--out_dir", tmp_path / "cut", "--resume")
    whole, resumed = (weights(tmp_path / name) for name in ("whole", "cut"))
    for name in whole["model"]:
        assert torch.equal(whole["model"][name], resumed["model"][name]), name
    for index, state in whole["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, resumed["optimizer"]["state"][index][name])
    for a, b in zip(lines(tmp_path / "whole")[1:], lines(tmp_path / "cut")[1:], strict=True):
        assert {name: value for name, value in a.items() if "seconds" not in name} == {
            name: value for name, value in b.items() if "seconds" not in name}


def test_a_run_from_a_checkpoint_loses_its_words_weights_or_settings(tmp_path):
    """As on GSM8k in the paper: first CoT, then the curriculum from stage 1 on."""
    train("--task", "gsm8k", "--method", "cot", *TINY, "--out_dir", tmp_path / "cot")
    train("--task", "gsm8k", "--max_value", 99, "--most_steps", 3, "--epochs_stage_0", 0, *SHORT,
          "--max_steps", 1, "--learning_rate", 1e-12, "--init", tmp_path / "cot" / "ckpt.pt",
          "--out_dir", tmp_path / "coconut")
    before, after = weights(tmp_path / "cot"), weights(tmp_path / "coconut")
    assert after["encoding"] == before["encoding"] and after["run"]["stage"] == 1
    enc = load_run(tmp_path / "cot" / "ckpt.pt")[2]
    old, new = before["model"]["wte.weight"], after["model"]["wte.weight"]
    marks = list(markers_of(enc))  # CoT has no markers, so they start as "<<" now
    torch.testing.assert_close(new[marks], old[enc.encode_single_token("<<")].expand(4, -1))
    assert not torch.allclose(old[marks], new[marks])
    words = [token for token in range(enc.n_vocab) if token not in marks]
    torch.testing.assert_close(new[words], old[words])


# ---------------------------------------------------------------------------------------------
# Settings and mistakes

def test_the_papers_recipe_is_not_that_of_section_5_1():
    recipes = {"prontoqa": (1, 6, False, 5, 5),
               "prosqa": (1, 6, False, 5, 5),
               "gsm8k": (2, 3, True, 6, 3)}
    for task, (c_thought, stages, extra, first, later) in recipes.items():
        s = complete({"task": task, "init": "gpt2"})
        assert (s.c_thought, s.max_latent_stage, s.extra_stage) == (c_thought, stages, extra)
        assert (s.epochs_stage_0, s.epochs_per_stage, s.epochs) == (first, later, 50)
        assert (s.batch_size, s.learning_rate, s.weight_decay, s.grad_clip) == (128, 1e-4, 0.01, 0)
        assert defaults(task, True).keys() >= defaults(task, False).keys() - {*DEFAULTS}


def test_a_size_of_ones_own_leaves_written_steps_at_the_last_stage():
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


def test_a_size_of_ones_own_ends_before_its_last_stage():
    assert [complete({"task": task}).epochs for task in TASKS] == [20, 22, 17]
    assert complete({"hops": 5}).epochs == complete({"hops": 5, "method": "cot"}).epochs == 20
    for given in ({"hops": 5}, {"hops": 6, "steps": "sentences"}, {"data": "official"},
                  {"task": "prosqa", "nodes": 28}, {"task": "gsm8k", "most_steps": 5}):
        s = complete(given)
        assert stage_at(s.epochs - 1, s.curriculum()) == last_stage(s.curriculum())
    assert complete({"hops": 5, "epochs": 14}).epochs == 14  # as asked for


def test_a_run_from_a_checkpoint_is_cut_to_the_other_problems_number():
    files = complete({"init": "gpt2", "task": "prosqa", "data": "official"})
    new = complete({"init": "ckpt.pt", "task": "prosqa"}, files)
    assert new.n_train > 0 and new.steps == "sentences" and new.tokenizer == "gpt2"
    generated = complete({"task": "prosqa", "n_layer": 3})
    new = complete({"init": "ckpt.pt", "task": "prosqa", "data": "official"}, generated)
    assert (new.n_train, new.n_test, new.steps, new.nodes) == (0, 0, "sentences", 28)
    assert (new.batch_size, new.eot, new.tokenizer) == (32, False, "word")


def test_a_run_from_a_checkpoint_learns_another_task_or_stops_before_larger_problems_last_step():
    saved = complete({"task": "prosqa"})
    assert saved.max_latent_stage == 4
    for given, last in (({}, 4), ({"nodes": 28}, 7), ({"nodes": 28, "max_latent_stage": 5}, 5)):
        new = complete({"init": "ckpt.pt", **given}, saved)
        assert (new.task, new.max_latent_stage) == ("prosqa", last)
    chosen = complete({"task": "prosqa", "max_latent_stage": 3})
    assert complete({"init": "ckpt.pt", "nodes": 28}, chosen).max_latent_stage == 3


def test_problems_are_drawn_for_the_words_of_a_model_that_has_them():
    s = complete({"init": str(ROOT / "results" / "prosqa.pt"), "task": "prosqa"})
    model, enc = start_model(s, drawn=None)
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
    (["--nodes", "20"], "--nodes would change nothing"),
    (["--method", "cot", "--c_thought", "2"], "--c_thought would change nothing"),
    (["--method", "no_thought", "--no-eot"], "--eot would change nothing"),
    (["--method", "no_cot", "--uniform_prob", ".1"], "--uniform_prob would change nothing"),
    (["--init", "gpt2", "--n_layer", "3"], "--n_layer would change nothing"),
    (["--n_embd", "30"], "--n_embd 30 must be even, and a multiple of --n_head"),
    (["--batch_size", "0"], "--batch_size must be more than 0"),
    (["--learning_rate", "nan"], "--learning_rate must be more than 0"),
    (["--uniform_prob", "2"], "--uniform_prob is a probability"),
    (["--block_size", "50"], "no problem fits into 50 tokens: a model from scratch "
                              "can have more by --block_size"),
    (["--resume"], "nothing to resume: there is no"),
])
def test_a_wrong_option_is_accepted_or_gets_a_traceback(tmp_path, args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train(*args, "--out_dir", tmp_path)
    last = str(stop.value) if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in last and stop.value.code not in (0, None)
    assert not (tmp_path / "ckpt.pt").exists()


def test_a_run_is_overwritten_or_resumed_as_another_one(tmp_path):
    options = [*PROSQA, *TINY, "--max_steps", 1, "--out_dir", tmp_path]
    train(*options)
    before = (tmp_path / "ckpt.pt").read_bytes()
    with pytest.raises(SystemExit, match="holds a run: --resume it"):
        train(*options)
    with pytest.raises(SystemExit, match="--nodes is 9, but 8 in the run of"):
        train("--task", "prosqa", "--nodes", 9, "--out_dir", tmp_path, "--resume")
    assert (tmp_path / "ckpt.pt").read_bytes() == before


def test_problems_longer_than_the_block_vanish_silently(tmp_path, capsys):
    train(*PROSQA, *TINY, "--block_size", 50, "--max_steps", 1, "--out_dir", tmp_path)
    assert "problems: they need more than the 50 tokens of --block_size" in capsys.readouterr().out


def test_files_whose_training_problems_are_all_too_long_end_in_a_traceback(tmp_path):
    for split, nodes in (("train", 40), ("valid", 8), ("test", 8)):
        records = problems("prosqa", 4, 0, split, nodes=nodes)
        (tmp_path / f"{split}.json").write_text(json.dumps(records))
    with pytest.raises(SystemExit, match="train.py: no problem fits into 150 tokens"):
        train("--task", "prosqa", "--data", tmp_path, *TINY, "--block_size", 150,
              "--out_dir", tmp_path / "out")


# ---------------------------------------------------------------------------------------------
# The scripts, and real data

@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("run")
    with redirect_stdout(io.StringIO()) as printed:
        train(*PRONTOQA, *TINY, *STAGES, "--out_dir", out_dir)
    assert "\r" not in printed.getvalue() and "test accuracy" in printed.getvalue()
    return out_dir / "ckpt.pt"


def test_sample_hides_a_thought_or_whether_the_answer_is_right(finished_run, capsys):
    done = run("sample.py", "--ckpt", finished_run, "--index", 2, "--top", 3)
    assert done.returncode == 0, done.stderr
    thoughts = [line for line in done.stdout.splitlines() if line.startswith("thought")]
    assert len(thoughts) == 2 and all("norm" in line for line in thoughts)
    assert "right" in done.stdout or "wrong" in done.stdout
    sample.main(["--ckpt", str(finished_run), "--index", "2", "--n_thoughts", "1"])
    fewer = capsys.readouterr().out
    assert fewer.count("\nthought ") == 1 and "1 thought," in fewer


def test_sample_does_not_answer_a_question_of_ones_own(finished_run, capsys):
    question = "Every cat is a zebra. Rex is a cat. True or false: Rex is blue."
    sample.main(["--ckpt", str(finished_run), "--question", question])
    assert question in capsys.readouterr().out


def test_a_question_that_is_too_long_ends_the_session(finished_run, capsys, monkeypatch):
    """By its tokens, and by its characters, which are not even cut into tokens."""
    questions = ["Rex is a cat.", "Every cat is a zebra. " * 900, "a" * 100_001, "A last one?", ""]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions) + "\n"))
    sample.main(["--ckpt", str(finished_run)])
    out = capsys.readouterr().out
    assert out.count("written") == 2 and "do not fit" in out
    assert "a question of 100001 characters is too long: ask it in 100000\n" in out
    for model in (["--ckpt", str(finished_run)], ["--init", "gpt2"]):
        with pytest.raises(SystemExit, match="sample.py: a question of 100001 characters"):
            sample.main([*model, "--question", "a" * 100_001])


@pytest.mark.parametrize("args, message", [
    ([], "python train.py --task prontoqa` makes one"),
    (["--ckpt", "LICENSE"], "cannot read LICENSE"),
    (["--ckpt", "{run}", "--index", "6"], "--index must be 0 to 5"),
    (["--ckpt", "{run}", "--index", "0", "--n_thoughts", "-1"],
     "argument --n_thoughts: invalid count value: '-1'"),
    (["--ckpt", "{run}", "--index", "0", "--n_thoughts", "900"], "do not fit into block_size"),
    (["--ckpt", str(ROOT / "results" / "prosqa-nodes16-cot.pt"), "--index", "0", "--top", "3"],
     "--top: the model was trained as cot, without thoughts to look at"),
    (["--init", "gpt2"], "--init needs a --question"),
    (["--init", "gpt2", "--question", "Once", "--top", "3"], "takes neither --ckpt nor"),
    (["--init", "{run}", "--question", "Once"], "is a checkpoint of train.py: name it by --ckpt"),
])
def test_a_wrong_question_gets_a_traceback(finished_run, tmp_path, capsys, args, message):
    args = [arg.replace("{run}", str(finished_run)) for arg in args]
    if not args:
        args = ["--ckpt", str(tmp_path / "ckpt.pt")]
    with pytest.raises(SystemExit) as stop:
        sample.main(args)
    last = str(stop.value) if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in last and stop.value.code not in (0, None)


@pytest.mark.parametrize("task, name, tokenizer", [
    ("prosqa", "prosqa_valid.json", "word"),
    ("prosqa", "prosqa_valid.json", "gpt2"),
    ("gsm8k", "gsm8k_aug_valid.txt", "word"),
    ("prontoqa", "prontoqa_5hop_raw.json", "word"),
])
def test_real_problems_cannot_be_trained_on_or_sampled(
        tmp_path, real_data, task, name, tokenizer, request, capsys):
    if tokenizer == "gpt2":
        request.getfixturevalue("needs_gpt2_vocabulary")
    result = train("--task", task, "--data", real_data / name, "--tokenizer", tokenizer,
                   *TINY, *STAGES, "--block_size", 640, "--max_steps", 4, "--out_dir", tmp_path)
    assert result["step"] == 4 and result["stage"] == 1 and math.isfinite(result["test_loss"])
    sample.main(["--ckpt", str(tmp_path / "ckpt.pt"), "--index", "1", "--max_new_tokens", "5"])
    assert "thought 1" in capsys.readouterr().out


def test_gpt2s_weights_do_not_get_the_new_tokens_or_train(tmp_path, needs_gpt2_vocabulary, capsys):
    """A file with the layout of the released one, tiny but for its 50,257 rows; then plain text."""
    from test_model import released_file
    torch.save(released_file(1, 64, 50257, 256), tmp_path / "pytorch_model.bin")
    train("--task", "gsm8k", "--init", tmp_path / "pytorch_model.bin", "--n_train", 4,
          "--n_valid", 2, "--n_test", 2, "--max_steps", 1, "--max_new_tokens", 3,
          "--learning_rate", 1e-12, "--out_dir", tmp_path / "run")
    _, model, enc = load_run(tmp_path / "run" / "ckpt.pt")
    assert model.config.vocab_size == enc.n_vocab == 50261
    torch.testing.assert_close(model.wte.weight[50257:],
                               model.wte.weight[enc.encode_single_token("<<")].expand(4, -1))
    sample.main(["--init", str(tmp_path / "pytorch_model.bin"), "--question", "Once upon",
                 "--max_new_tokens", "3"])
    assert "Once upon" in capsys.readouterr().out
