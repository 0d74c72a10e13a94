"""Training and evaluation, by train.py's main: the loss, the methods, stages and resuming."""
import json
import math
import os

import pytest
import torch

import train as training
from conftest import slow_think, tiny_gpt
from curriculum import Curriculum, build
from data import collate, count_targets, encode, markers_of, text_of, word_encoding
from harness import ranks
from harness.checkpoint import Run
from harness.settings import complete
from harness.start import load_run, new_optimizer
from model import supervised_loss, think
from tasks.common import problems
from tasks.record import Example

PROSQA = "--task prosqa --nodes 8".split()
PRONTOQA = "--task prontoqa --hops 1".split()
SMALL = "--n_layer 2 --n_head 2 --n_embd 16".split()
SHORT = ("--n_train 24 --n_valid 6 --n_test 6 --batch_size 8 --epochs 4 "
         "--max_new_tokens 6").split()
TINY = SMALL + SHORT  # three steps an epoch
STAGES = "--epochs_stage_0 1 --epochs_per_stage 1 --max_latent_stage 2 --no-extra_stage".split()
ICOT = "--method icot --epochs_stage_0 1 --icot_tokens 3 --icot_all_beyond 7".split()


def train(*args):
    """train.py's main, in this process."""
    return training.main(["--device", "cpu", *map(str, args)])


def weights(out_dir):
    return torch.load(os.path.join(out_dir, "ckpt.pt"), weights_only=True)


def lines(out_dir):
    with open(os.path.join(out_dir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def examples_and_encoding(task="prosqa", n=8, **size):
    records = problems(task, n, seed=0, **(size or {"nodes": 8}))
    examples = [Example(r["question"], r["steps"], r["answer"]) for r in records]
    return examples, word_encoding(map(text_of, examples))


def loss_of(model, rows, enc):
    ids, targets, is_thought, is_real, start = collate(rows, markers_of(enc).thought)
    hidden, _ = think(model, ids, is_thought, is_real, start)
    return supervised_loss(model, hidden, targets)


# ---------------------------------------------------------------------------------------------
# The loss and the evaluation

def test_the_loss_is_that_of_full_passes_on_the_supervised_tokens():
    """With no thought, one and two in a batch."""
    examples, enc = examples_and_encoding()
    model, marks = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), markers_of(enc)
    rows = [build(encode(e, enc), i % 3, Curriculum(), marks) for i, e in enumerate(examples)]
    expected = 0.0
    for ids, targets, _ in rows:
        columns = [t for t, token in enumerate(ids) if token == marks.thought]
        log_p = model.lm_head(slow_think(model, ids, columns)).log_softmax(dim=-1)
        expected -= sum(log_p[t - 1, ids[t]] for t in range(len(ids)) if targets[t] >= 0).item()
    loss = loss_of(model, rows, enc).item()
    assert abs(loss - expected) < 1e-3 * expected
    assert count_targets(rows) == sum(t >= 0 for _, targets, _ in rows for t in targets)


def test_micro_batches_train_as_the_whole_batch_does(tmp_path):
    """Rows differ in their number of supervised tokens: a mean of means would be another loss."""
    for size in (8, 3):
        train(*PROSQA, *TINY, "--micro_batch", size, "--max_steps", 2,
              "--out_dir", tmp_path / str(size))
    whole, micro = (weights(tmp_path / str(size))["model"] for size in (8, 3))
    for name in whole:
        torch.testing.assert_close(micro[name], whole[name], atol=2e-5, rtol=1e-4)


def test_bfloat16_changes_rounding_alone(tmp_path):
    for dtype in ("float32", "bfloat16"):
        train(*PROSQA, *TINY, "--n_valid", 2, "--n_test", 2, "--max_new_tokens", 2,
              "--max_steps", 2, "--dtype", dtype, "--out_dir", tmp_path / dtype)
    exact, rounded = (weights(tmp_path / dtype) for dtype in ("float32", "bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in rounded["model"].values())
    assert exact["run"]["loss_sum"] != rounded["run"]["loss_sum"]
    assert exact["run"]["loss_sum"] == pytest.approx(rounded["run"]["loss_sum"], rel=0.02)


@pytest.mark.parametrize("task, size", [("prosqa", {"nodes": 8}), ("prontoqa", {"hops": 1}),
                                        ("gsm8k", {"max_value": 50, "most_steps": 2})])
def test_a_tiny_batch_is_memorized(task, size):
    """Eight problems, with thoughts: were something cut or misplaced, the loss would stay up."""
    examples, enc = examples_and_encoding(task, 8, **size)
    model, c = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), Curriculum()
    rows = [build(encode(e, enc), 1, c, markers_of(enc)) for e in examples]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
    for _ in range(40):
        loss = loss_of(model, rows, enc) / count_targets(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    result = training.evaluate(model, examples, 1, c, enc, batch_size=3, max_new_tokens=60)
    assert result["accuracy"] == 1 and result["loss"] < 0.1
    loss = loss_of(model, rows, enc).item() / count_targets(rows)
    assert result["loss"] == pytest.approx(loss, rel=1e-3)


def test_tokens_are_counted_as_in_the_papers_table(monkeypatch):
    """Thoughts and written tokens; not markers, pauses or the end token."""
    def five_written_tokens(model, prompts, *_):
        return [("### no", 5)] * len(prompts)

    monkeypatch.setattr(training, "answers", five_written_tokens)
    examples, enc = examples_and_encoding()
    model = tiny_gpt(vocab_size=enc.n_vocab, block_size=256)
    for method, expected in {"coconut": 5 + 6, "no_curriculum": 5 + 6, "pause_as_thought": 5,
                             "pause": 5, "no_cot": 5, "cot": 5}.items():
        c = Curriculum(method, c_thought=2, max_latent_stage=3)
        result = training.evaluate(model, examples, 4, c, enc, batch_size=4, max_new_tokens=9)
        assert result["tokens"] == expected and result["accuracy"] == 0 and result["n"] == 8


@pytest.mark.parametrize("number", [1, 3])
def test_an_answer_is_counted_for_its_own_problem(monkeypatch, number):
    """Every third problem is right, on one rank or on three that share the problems."""
    examples, enc = examples_and_encoding(n=20)
    third = {e.question: e.answer for e in examples[::3]}
    monkeypatch.setattr(training, "prompts_of", lambda examples, *_: examples)
    monkeypatch.setattr(training, "answers", lambda model, prompts, *_: [
        ("### " + third.get(e.question, "no"), 5) for e in prompts])
    monkeypatch.setattr(ranks, "RANKS", number)
    monkeypatch.setattr(training, "total", lambda numbers, device: numbers)  # each rank's own
    model, found = tiny_gpt(vocab_size=enc.n_vocab, block_size=256), []
    for rank in range(number):
        monkeypatch.setattr(ranks, "RANK", rank)
        found.append(training.evaluate(model, examples, 0, Curriculum("cot"), enc, 4, 9))
    right = [sum(map(int, column)) for column in zip(*(result["right"] for result in found))]
    assert right == [i % 3 == 0 for i in range(20)]
    assert len({result["problems"] for result in found}) == 1
    fewer = training.evaluate(model, examples[1:], 0, Curriculum("cot"), enc, 4, 9)
    assert fewer["problems"] != found[0]["problems"]


# ---------------------------------------------------------------------------------------------
# Methods, stages, the optimizer

@pytest.mark.parametrize("method, options, stages", [
    ("coconut", STAGES, [0, 1, 2]),
    ("pause_as_thought", STAGES, [0, 1, 2]),
    ("no_thought", STAGES, [0, 1, 2]),
    ("no_curriculum", ["--max_latent_stage", 2], [3, 3, 3]),
    ("pause", ["--max_latent_stage", 2], [3, 3, 3]),
    ("no_cot", [], None),
    ("cot", [], [0, 0, 0]),
    ("icot", ICOT, [0, 2, 5])])
def test_every_method_trains_and_is_evaluated(tmp_path, method, options, stages):
    result = train(*PROSQA, "--method", method, *TINY, *options, "--epochs", 3,
                   "--out_dir", tmp_path)
    header, *epochs, last = lines(tmp_path)
    assert header["settings"]["method"] == method and header["machine"]
    assert len(epochs) == 3 and last == result
    assert len(last["test_right"]) == 6 and "val_right" not in epochs[0]
    assert result["test_n"] == 6 and math.isfinite(result["test_loss"])
    assert [line["stage"] for line in epochs] == (stages or [last["stage"]] * 3)
    assert weights(tmp_path)["optimizer"]["state"][0]["step"] == 9  # no stage began it anew


def test_a_new_stage_resets_the_optimizer_where_asked(tmp_path):
    train(*PROSQA, *TINY, *STAGES, "--reset_optimizer", "--out_dir", tmp_path)
    assert weights(tmp_path)["optimizer"]["state"][0]["step"] == 6  # two epochs at the last stage


def test_icot_removes_a_token_at_a_time_also_within_an_epoch(tmp_path, monkeypatch):
    """Three steps an epoch, and a token before the second, the third, the next epoch's first .."""
    stages = []
    monkeypatch.setattr(training, "print_stage", lambda stage, *_: stages.append(stage))
    train(*PROSQA, *TINY, *ICOT, "--reset_optimizer", "--out_dir", tmp_path)
    assert stages == [*range(8)]
    assert [line["stage"] for line in lines(tmp_path)[1:]] == [0, 2, 5, 7, 7]  # the last: the test
    ckpt = weights(tmp_path)
    assert ckpt["optimizer"]["state"][0]["step"] == 2  # at the last stage
    assert (ckpt["run"]["step"], ckpt["run"]["stage_step"]) == (12, 2)


def test_an_optimizer_without_its_state_steps_as_a_new_one_does():
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


def test_the_learning_rate_warms_up_after_each_reset_and_falls_at_the_end():
    s = complete({"epochs": 10, "decay_epochs": 2, "warmup_steps": 4, "learning_rate": 1.0})

    def rate(epoch, batch, stage_step):
        return training.learning_rate(s, Run(epoch, batch, stage_step=stage_step), 5)

    assert [rate(3, 0, done) for done in (0, 1, 3, 8)] == [0.25, 0.5, 1, 1]
    assert [rate(8, batch, 99) for batch in (0, 5)] == [1, 0.5] and rate(9, 4, 99) < 0.11
    flat = complete({"decay_epochs": 0, "warmup_steps": 0, "learning_rate": 1e-4, "epochs": 50})
    assert training.learning_rate(flat, Run(49, 4, stage_step=0), 5) == 1e-4


# ---------------------------------------------------------------------------------------------
# Resumed runs, and runs from a checkpoint

@pytest.mark.parametrize("cuts, options", [
    ([2, 3, 7], [*STAGES, "--uniform_prob", 0.3]),
    ([3], [*STAGES, "--optimizer", "adamw"]),
    ([4, 5], ICOT)], ids=["stages", "adamw", "icot"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_by_bit(tmp_path, cuts, options):
    """Cut amid an epoch, at its end, and in a later stage; with dropout and stage mixing. icot
    begins stages amid an epoch."""
    options = [*PRONTOQA, *TINY, *options, "--epochs", 3, "--dropout", 0.2]
    train(*options, "--out_dir", tmp_path / "whole")
    for cut in cuts:
        train(*options, "--out_dir", tmp_path / "cut", "--max_steps", cut,
              "--no-resume" if cut == cuts[0] else "--resume")
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


def test_what_a_batch_draws_depends_on_seed_epoch_and_batch_alone(tmp_path, monkeypatch):
    """Stage mixing, where all training problems are one and the same: its rows show what was drawn.
    Every rank draws for the whole batch, and so does a resumed run."""
    same, *others = problems("prosqa", 5, seed=0, nodes=8)
    for split, records in (("train", [same] * 24), ("valid", others[:2]), ("test", others[2:])):
        (tmp_path / f"{split}.json").write_text(json.dumps(records))

    def drawn(name, *options):
        """The rows of each batch of a run, before they are shared."""
        found, own = [], training.micro_batches
        with monkeypatch.context() as patch:
            patch.setattr(training, "micro_batches",
                          lambda rows, size: found.append(str(rows)) or own(rows, size))
            train("--task", "prosqa", "--data", tmp_path, *TINY, *STAGES, "--epochs", 2,
                  "--batch_size", 12, "--uniform_prob", 0.9, *options, "--out_dir", tmp_path / name)
        return found

    whole = drawn("whole")
    assert len(whole) == len(set(whole)) == 4
    assert not set(whole) & set(drawn("another seed", "--seed", 1))
    assert drawn("cut", "--max_steps", 1) + drawn("cut", "--resume") == whole
    monkeypatch.setattr(ranks, "RANKS", 2)  # the second of two ranks, without the first
    monkeypatch.setattr(ranks, "RANK", 1)
    monkeypatch.setattr("harness.start.RANK", 1)
    monkeypatch.setattr("harness.start.join", lambda device: None)
    monkeypatch.setattr(training, "total", lambda numbers, device: numbers)
    monkeypatch.setattr(training, "sum_gradients", lambda model: None)
    assert drawn("rank 1") == whole


def test_a_run_from_a_checkpoint_keeps_its_words_weights_and_settings(tmp_path):
    """As on GSM8k in the paper: first CoT, then the curriculum from stage 1 on."""
    train("--task", "gsm8k", "--method", "cot", *TINY, "--max_steps", 2, "--out_dir",
          tmp_path / "cot")
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
