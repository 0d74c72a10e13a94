"""Parallel thoughts against the loop, and against slow code that is obviously right."""
import pytest
import torch

from conftest import tiny_gpt
from model import think
from test_model import aligned, pad, random_rows


@pytest.mark.parametrize("since", [0, 12])
def test_as_many_iterations_as_thoughts_give_other_states_or_gradients_than_the_loop(since):
    model, rows = tiny_gpt(), random_rows([6, 4, 6])
    batch = pad(rows, aligned(rows))
    results = []
    for model.config.jacobi in (0, 6, 9, 5):
        hidden, past = think(model, *batch, since=since, return_past=True)
        gradients = torch.autograd.grad(hidden[:, -1].sum(), [model.wte.weight, model.wpe.weight])
        results.append((hidden[:, -1], *gradients))
        assert sum(keys.size(2) for keys, _ in past[0]) == batch[0].size(1)
    loop, enough, more, too_few = results
    for ours in (enough, more):
        for a, b in zip(ours, loop):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(too_few[0], loop[0], atol=1e-3)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_an_iteration_differs_from_a_full_pass(T):
    model, (row,) = tiny_gpt(), random_rows([4])
    model.config.jacobi = T
    fast = think(model, *pad([row]))
    ids, columns = row
    start = x = model.embed(torch.tensor([ids]))
    for _ in range(T):
        hidden, _ = model(x)
        x = start.clone()
        x[:, columns] = hidden[:, [column - 1 for column in columns]]
    torch.testing.assert_close(fast, model(x)[0], atol=1e-5, rtol=1e-5)


def test_edits_do_not_reach_the_thoughts():
    model, rows = tiny_gpt(), random_rows([3, 3])
    batch, model.config.jacobi = pad(rows, aligned(rows)), 2
    own = think(model, *batch)
    kept = think(model, *batch, edit=lambda k, value: value)
    zeroed = think(model, *batch, edit=lambda k, value: torch.zeros_like(value))
    torch.testing.assert_close(own, kept)
    assert not torch.allclose(own[:, -1], zeroed[:, -1], atol=1e-3)
