"""What a GPU changes: the time it takes, and nothing but rounding in what comes out."""
import pytest
import torch

import train as training
from conftest import aligned, late_start, pad, random_rows, right_aligned, tiny_gpt
from harness.settings import Settings
from harness.start import load_run
from model import generate, supervised_loss, think
from tasks.common import load_splits
from test_train import PROSQA, STAGES, TINY, lines
from train import evaluate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
MIXED = [0, 6, 1, 3, 2]  # thoughts of the rows of a batch


def loss_and_gradients(device, late=False):
    model, rows = tiny_gpt().to(device), random_rows(MIXED)
    ids, is_thought, is_real = (tensor.to(device) for tensor in pad(rows, aligned(rows)))
    first = late_start(is_thought)
    targets = ids.masked_fill(~is_real | is_thought, -100)
    targets[:, :first] = -100
    hidden, _ = think(model, ids, is_thought, is_real, first if late else 1)
    loss = supervised_loss(model, hidden, targets)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_the_loop_gives_the_loss_and_gradients_of_a_cpu():
    expected = loss_and_gradients("cpu")
    for late in (False, True):
        for ours, theirs in zip(loss_and_gradients("cuda", late), expected):
            torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-3)


def test_a_gpu_writes_what_a_cpu_writes():
    rows = random_rows(MIXED, seed=5)
    prompts = pad(rows, right_aligned(rows))
    written = [generate(tiny_gpt(seed=1).to(device), *(tensor.to(device) for tensor in prompts),
                        max_new_tokens=12, end_id=-1) for device in ("cpu", "cuda")]
    assert written[0] == written[1]


@pytest.mark.parametrize("options", ["--dtype float32", "--dtype float32 --optimizer adamw",
                                     "--dtype bfloat16 --micro_batch 4"])
def test_a_run_learns_the_same_on_a_gpu_and_on_a_cpu(tmp_path, options):
    for device in ("cpu", "cuda"):
        training.main([*PROSQA, *TINY, *STAGES, *options.split(), "--device", device, "--out_dir",
                       str(tmp_path / device)])
    (cpu, *there), (gpu, *here) = (lines(tmp_path / device) for device in ("cpu", "cuda"))
    assert gpu["device"].startswith("cuda") and gpu["machine"] != cpu["machine"]
    for theirs, ours in zip(there[:-1], here[:-1], strict=True):  # the epochs
        assert ours["stage"] == theirs["stage"] and ours["step"] == theirs["step"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.03)


def test_a_run_may_move_from_a_gpu_to_a_cpu_and_back(tmp_path):
    args = [*PROSQA, *TINY, *STAGES]
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    training.main([*args, "--device", "cuda", "--max_steps", "12", "--out_dir", str(stayed)])
    training.main([*args, "--device", "cuda", "--max_steps", "4", "--out_dir", str(moved)])
    for device, last in (("cpu", 8), ("cuda", 12)):
        training.main([*args, "--resume", "--device", device, "--max_steps", str(last),
                       "--out_dir", str(moved)])
    assert lines(moved)[-1]["step"] == 12
    for theirs, ours in zip(lines(stayed)[1:], lines(moved)[1:], strict=True):
        for name in theirs.keys() & {"stage", "step", "train_loss", "val_loss", "test_loss"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_a_model_trained_on_a_gpu_answers_the_same_on_a_cpu(tmp_path):
    training.main([*PROSQA, *TINY, *STAGES, "--device", "cuda", "--out_dir", str(tmp_path)])
    ckpt, model, enc = load_run(tmp_path / "ckpt.pt", "cpu")
    s = Settings(**ckpt["settings"])
    test = load_splits(s.data, s.task, s.size(), 0, s.seed, 1, 1, 20)[2]
    there, here = (evaluate(model.to(device), test, 3, s.curriculum(), enc, 8, 20)
                   for device in ("cpu", "cuda"))
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-4)
    assert there["right"] == here["right"]
