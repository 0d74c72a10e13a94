"""Truncated backpropagation: which rows' thoughts still have a gradient."""
import pytest
import torch

import train


@pytest.mark.parametrize("through", [0, 1, 2, 100])
def test_the_gradient_goes_back_through_more_or_fewer_thoughts(through, tmp_path, monkeypatch):
    seen, think = [], train.think

    def watched(model, ids, thought, real, since, edit):
        k = thought.sum(dim=1)  # (B,) of each row
        for i in range(int(k.max())):
            value = torch.zeros(len(ids), model.config.n_embd, requires_grad=True)
            edit(i, value).sum().backward()
            gradient = value.grad[:, 0] if value.grad is not None else torch.zeros(len(ids))
            assert torch.equal(gradient == 1, i >= k - through)
            seen.append(len(k.unique()))
        return think(model, ids, thought, real, edit=edit, since=since)

    monkeypatch.setattr(train, "think", watched)
    train.main(f"--task prosqa --epochs_stage_0 0 --epochs 4 --n_train 32 --n_valid 4 --n_test 4 "
               f"--uniform_prob 0.5 --through {through} --device cpu --out_dir {tmp_path / 'run'}"
               .split())
    assert max(seen) > 1  # stage mixing puts rows with more and fewer thoughts into a batch
