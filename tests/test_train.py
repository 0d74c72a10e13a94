"""Training and evaluation, by train.py's main: the loss, the methods, stages and resuming."""
import json
import math
import os

import pytest
import torch

import train as training
from conftest import ROOT, slow_think, tiny_gpt
from curriculum import Curriculum, build
from data import collate, count_targets, encode, markers_of, text_of, word_encoding
from harness.checkpoint import Run
from harness.settings import complete
from harness.start import load_run
from model import supervised_loss, think
from tasks import TASKS
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
SIZES = {"prosqa": {"nodes": 8}, "prontoqa": {"hops": 1}}  # where a task's problems are long


def train(*args):
    """train.py's main, in this process."""
    return training.main(["--device", "cpu", *map(str, args)])


def weights(out_dir):
    return torch.load(os.path.join(out_dir, "ckpt.pt"), weights_only=True)


def lines(out_dir):
    with open(os.path.join(out_dir, "metrics.jsonl")) as file:
        return [json.loads(line) for line in file]


def same(a, b):
    """Whether two checkpoints or logs hold the same, to the bit; time and settings apart."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a
                                            if "seconds" not in str(key) and key != "settings")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def same_runs(a, b):
    return same(weights(a), weights(b)) and same(lines(a)[1:], lines(b)[1:])


def examples_and_encoding(task="prosqa", n=8):
    records = problems(task, n, seed=0, **SIZES.get(task, {}))
    examples = [Example(r["question"], r["steps"], r["answer"]) for r in records]
    return examples, word_encoding(map(text_of, examples))


def loss_of(model, rows, enc):
    ids, targets, is_thought, is_real, start = collate(rows, markers_of(enc).thought)
    hidden, _ = think(model, ids, is_thought, is_real, start)
    return supervised_loss(model, hidden, targets)


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
    assert loss_of(model, rows, enc).item() == pytest.approx(expected, rel=1e-5)
    assert count_targets(rows) == sum(t >= 0 for _, targets, _ in rows for t in targets)


def test_micro_batches_train_as_the_whole_batch_does_and_bfloat16_only_rounds(tmp_path):
    """Rows differ in their number of supervised tokens: a mean of means would be another loss."""
    for name, options in {"whole": [], "micro": ["--micro_batch", 3],
                          "bfloat16": ["--dtype", "bfloat16"]}.items():
        train(*PROSQA, *TINY, *options, "--learning_rate", 2e-3, "--max_steps", 2,
              "--out_dir", tmp_path / name)
    whole, micro, rounded = (weights(tmp_path / name) for name in ("whole", "micro", "bfloat16"))
    for name in whole["model"]:
        torch.testing.assert_close(micro["model"][name], whole["model"][name], atol=2e-5, rtol=1e-4)
    assert all(tensor.dtype == torch.float32 for tensor in rounded["model"].values())
    assert rounded["run"]["loss_sum"] != whole["run"]["loss_sum"]
    assert rounded["run"]["loss_sum"] == pytest.approx(whole["run"]["loss_sum"], rel=0.02)


@pytest.mark.parametrize("task", TASKS)
def test_a_tiny_batch_is_memorized(task):
    """Eight problems, with thoughts: were something cut or misplaced, the loss would stay up."""
    examples, enc = examples_and_encoding(task)
    model, c = tiny_gpt(vocab_size=enc.n_vocab, block_size=1024), Curriculum()
    rows = [build(encode(e, enc), 1, c, markers_of(enc)) for e in examples]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
    for _ in range(60):
        loss = loss_of(model, rows, enc) / count_targets(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    longest = max(count_targets([row]) for row in rows)
    result = training.evaluate(model, examples, 1, c, enc, batch_size=3, max_new_tokens=longest)
    assert result["accuracy"] == 1 and result["loss"] < 0.1
    loss = loss_of(model, rows, enc).item() / count_targets(rows)
    assert result["loss"] == pytest.approx(loss, rel=1e-3)


def test_answers_are_counted_for_their_own_problems_and_tokens_as_in_the_papers_table(monkeypatch):
    """Thoughts and written tokens count; markers, pauses and the end token do not."""
    examples, enc = examples_and_encoding(n=20)
    third = {e.question: e.answer for e in examples[::3]}
    monkeypatch.setattr(training, "prompts_of", lambda examples, *_: examples)
    monkeypatch.setattr(training, "answers", lambda model, prompts, *_: [
        ("### " + third.get(e.question, "no"), 5) for e in prompts])
    model = tiny_gpt(vocab_size=enc.n_vocab, block_size=256)
    for method, tokens in {"coconut": 5 + 6, "no_curriculum": 5 + 6, "pause_as_thought": 5,
                           "pause": 5, "no_cot": 5, "cot": 5}.items():
        c = Curriculum(method, c_thought=2, max_latent_stage=3)
        result = training.evaluate(model, examples, 4, c, enc, batch_size=4, max_new_tokens=9)
        assert (result["tokens"], result["accuracy"], result["n"]) == (tokens, 7 / 20, 20)
        assert result["right"] == "".join("01"[i % 3 == 0] for i in range(20))


@pytest.mark.parametrize("method, options, stages", [
    ("coconut", STAGES, [0, 1, 2]),
    ("pause_as_thought", STAGES, [0, 1, 2]),
    ("no_thought", STAGES, [0, 1, 2]),
    ("no_curriculum", ["--max_latent_stage", 2], [3, 3, 3]),
    ("pause", ["--max_latent_stage", 2], [3, 3, 3]),
    ("no_cot", [], [5, 5, 5]),
    ("cot", [], [0, 0, 0]),
    ("icot", ICOT, [0, 2, 5])])
def test_every_method_trains_and_is_evaluated(tmp_path, method, options, stages):
    result = train(*PROSQA, "--method", method, *TINY, *options, "--epochs", 3,
                   "--out_dir", tmp_path)
    header, *epochs, last = lines(tmp_path)
    assert header["settings"]["method"] == method and header["machine"]
    assert [line["stage"] for line in epochs] == stages and last == result
    assert len(last["test_right"]) == last["test_n"] == 6 and "val_right" not in epochs[0]
    assert math.isfinite(result["test_loss"])
    ckpt = weights(tmp_path)
    assert ckpt["run"]["history"] == epochs
    assert ckpt["optimizer"]["state"][0]["step"] == 9  # no stage began it anew


def test_icot_removes_a_token_at_a_time_and_a_stage_resets_the_optimizer_where_asked(
        tmp_path, monkeypatch):
    """Three steps an epoch, and a token before the second, the third, the next epoch's first .."""
    stages = []
    monkeypatch.setattr(training, "print_stage", lambda stage, *_: stages.append(stage))
    train(*PROSQA, *TINY, *ICOT, "--reset_optimizer", "--out_dir", tmp_path)
    assert stages == [*range(8)]
    assert [line["stage"] for line in lines(tmp_path)[1:]] == [0, 2, 5, 7, 7]  # the last: the test
    ckpt = weights(tmp_path)
    assert ckpt["optimizer"]["state"][0]["step"] == 2  # at the last stage
    assert (ckpt["run"]["step"], ckpt["run"]["stage_step"]) == (12, 2)


def test_the_learning_rate_warms_up_after_each_reset_and_falls_at_the_end():
    s = complete({"epochs": 10, "decay_epochs": 2, "warmup_steps": 4, "learning_rate": 1.0})

    def rate(epoch, batch, stage_step):
        return training.learning_rate(s, Run(epoch, batch, stage_step=stage_step), 5)

    assert [rate(3, 0, done) for done in (0, 1, 3, 8)] == [0.25, 0.5, 1, 1]
    assert [rate(8, batch, 99) for batch in (0, 5)] == [1, 0.5] and rate(9, 4, 99) < 0.11
    flat = complete({"decay_epochs": 0, "warmup_steps": 0, "learning_rate": 1e-4, "epochs": 50})
    assert training.learning_rate(flat, Run(49, 4, stage_step=0), 5) == 1e-4


def test_what_a_batch_draws_depends_on_seed_epoch_and_batch(tmp_path, monkeypatch):
    drawn, own = [], training.build

    def build_and_draw(example, stage, c, marks, rng=None):
        if rng:
            drawn.append(rng.random())
        return own(example, stage, c, marks, rng)

    monkeypatch.setattr(training, "build", build_and_draw)
    for seed in (0, 1):
        train(*PROSQA, *TINY, "--epochs", 2, "--seed", seed, "--out_dir", tmp_path / str(seed))
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 24


def test_a_run_from_a_checkpoint_keeps_its_words_weights_and_settings(tmp_path):
    """As on GSM8k in the paper: first CoT, then the curriculum from stage 1 on. What the weights
    leave open, dropout say, is the new run's."""
    cot = tmp_path / "cot" / "ckpt.pt"
    train("--task", "gsm8k", "--method", "cot", *TINY, "--max_steps", 2, "--out_dir", cot.parent)
    train("--task", "gsm8k", "--max_value", 99, "--most_steps", 3, "--epochs_stage_0", 0, *SHORT,
          "--max_steps", 1, "--learning_rate", 1e-12, "--dropout", 0.3, "--init", cot,
          "--out_dir", tmp_path / "coconut")
    before, after = weights(cot.parent), weights(tmp_path / "coconut")
    assert after["encoding"] == before["encoding"] and after["run"]["stage"] == 1
    assert after["config"] == before["config"] | {"dropout": 0.3}
    enc = load_run(cot)[2]
    old, new = before["model"]["wte.weight"], after["model"]["wte.weight"]
    marks = list(markers_of(enc))  # CoT has no markers, so they start as "<<" now
    torch.testing.assert_close(new[marks], old[enc.encode_single_token("<<")].expand(4, -1))
    assert not torch.allclose(old[marks], new[marks])
    words = [token for token in range(enc.n_vocab) if token not in marks]
    torch.testing.assert_close(new[words], old[words])


@pytest.mark.house
def test_a_run_counts_its_right_answers_with_the_thoughts_of_another_problem():
    """A shipped model, which needs its own; what `show` counts is what `intervene` does."""
    for size in (500, 1):
        result = train("--init", ROOT / "results" / "prosqa-balanced.pt", "--max_steps", 0,
                       "--n_test", 40, "--micro_batch", size)
        assert result["test_accuracy"] > 0.9 and result["test_swapped"] < 0.5


def test_the_number_of_threads_is_chosen_without_a_trace_and_kept(tmp_path, monkeypatch, capsys):
    options = [*PROSQA, *TINY, *STAGES, "--dropout", 0.1, "--epochs", 2]
    train(*options, "--out_dir", tmp_path / "one")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    tried = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)  # which changes no sum here
    train(*options, "--out_dir", tmp_path / "chosen", "--max_steps", 3)
    threads = weights(tmp_path / "chosen")["run"]["threads"]
    assert tried[:2] == [4, 2] and tried[-1] == threads
    assert f"a step is fastest with {threads} of 4 threads" in capsys.readouterr().out
    tried.clear()
    train("--out_dir", tmp_path / "chosen", "--resume")
    assert tried == [threads]
    one, chosen = weights(tmp_path / "one"), weights(tmp_path / "chosen")
    assert same(one["model"], chosen["model"]) and same(one["rng"], chosen["rng"])
