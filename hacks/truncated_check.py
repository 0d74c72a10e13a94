"""Truncated backpropagation: which rows' thoughts still have a gradient."""
import pytest
import torch

import train


@pytest.mark.parametrize("through", [0, 1, 2, 100])
def test_the_gradient_goes_back_through_that_many_of_the_last_thoughts(through, tmp_path,
                                                                       monkeypatch):
    seen, think = [], train.think

    def watched(model, ids, is_thought, is_real, start, on_thought=None):
        n_thoughts = is_thought.sum(dim=1)  # (B,)
        for k in range(int(n_thoughts.max()) if on_thought else 0):  # none in evaluation
            thought = torch.zeros(len(ids), model.config.n_embd, requires_grad=True)
            on_thought(k, thought).sum().backward()
            assert torch.equal(thought.grad[:, 0] == 1, k >= n_thoughts - through)
            seen.append(len(n_thoughts.unique()))
        return think(model, ids, is_thought, is_real, start, on_thought)

    monkeypatch.setattr(train, "think", watched)
    train.main(f"--task prosqa --epochs_stage_0 0 --epochs 4 --n_train 32 --n_valid 4 --n_test 4 "
               f"--max_new_tokens 1 --uniform_prob 0.5 --through {through} --device cpu "
               f"--out_dir {tmp_path / 'run'}".split())
    assert max(seen) > 1  # stage mixing puts rows with more and fewer thoughts into a batch
