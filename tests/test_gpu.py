"""What a GPU changes: the time it takes, and nothing but rounding in what comes out."""
import pytest
import torch

import train as training
from conftest import aligned, late_start, pad, random_rows, tiny_gpt
from model import generate, supervised_loss, think
from test_model import prompts
from test_train import PROSQA, STAGES, TINY, lines

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
ROWS = random_rows([0, 6, 1, 3, 2])


def test_the_loop_gives_the_gradients_of_a_cpu_and_writes_the_same():
    gradients, written = [], []
    for device in ("cpu", "cuda"):
        model = tiny_gpt().to(device)
        ids, is_thought, is_real = (tensor.to(device) for tensor in pad(ROWS, aligned(ROWS)))
        targets = ids.masked_fill(~is_real | is_thought, -100)
        hidden, _ = think(model, ids, is_thought, is_real, late_start(is_thought))
        loss = supervised_loss(model, hidden, targets)
        gradients.append([g.cpu() for g in torch.autograd.grad(loss, list(model.parameters()))])
        batch = [tensor.to(device) for tensor in prompts(ROWS)]
        written.append(generate(model, *batch, max_new_tokens=12, end_id=-1))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
    assert written[0] == written[1]


@pytest.mark.parametrize("options, rel", [("--dtype float32", 1e-4),
                                          ("--dtype bfloat16 --micro_batch 4", 0.03)])
def test_a_run_that_moves_to_a_cpu_and_back_learns_the_same(tmp_path, options, rel):
    def train_to(step, device, name, *resume):
        training.main([*PROSQA, *TINY, *STAGES, *options.split(), "--max_steps", str(step),
                       "--device", device, "--out_dir", str(tmp_path / name), *resume])

    train_to(12, "cuda", "stayed")
    train_to(4, "cuda", "moved")
    train_to(8, "cpu", "moved", "--resume")
    train_to(12, "cuda", "moved", "--resume")
    stayed, moved = lines(tmp_path / "stayed"), lines(tmp_path / "moved")
    assert stayed[0]["device"].startswith("cuda")
    for theirs, ours in zip(stayed[1:], moved[1:], strict=True):
        for name in theirs.keys() & {"stage", "step", "train_loss", "val_loss", "test_loss"}:
            assert ours[name] == pytest.approx(theirs[name], rel=rel), name
