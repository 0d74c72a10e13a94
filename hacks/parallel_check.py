"""Parallel thoughts against the loop, and against slow code that is obviously right."""
import pytest
import torch

from conftest import aligned, full_pass, late_start, pad, random_rows, tiny_gpt
from data import markers_of, word_encoding
from model import think
from sample import thoughts_after


@pytest.mark.parametrize("late", [False, True], ids=["start 1", "late start"])
def test_as_many_iterations_as_thoughts_give_the_states_and_gradients_of_the_loop(late):
    model, rows = tiny_gpt(), random_rows([6, 4, 6])
    ids, is_thought, is_real = pad(rows, aligned(rows))
    start = late_start(is_thought) if late else 1
    results = []
    for model.config.jacobi in (0, 6, 9, 5):
        hidden, cache = think(model, ids, is_thought, is_real, start)
        gradients = torch.autograd.grad(hidden[:, -1].sum(), [model.wte.weight, model.wpe.weight])
        results.append((hidden, *gradients))
        assert cache[0][0].size(2) == ids.size(1)
    loop, enough, more, too_few = results
    for ours in (enough, more):
        torch.testing.assert_close(ours, loop, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(too_few[0][:, -1], loop[0][:, -1], atol=1e-3)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_an_iteration_equals_a_full_pass(T):
    model, (row,) = tiny_gpt(), random_rows([4])
    model.config.jacobi = T
    fast, _ = think(model, *pad([row]), start=1)
    ids, columns = row
    begun = x = model.embed(torch.tensor([ids]))
    for _ in range(T):
        hidden = full_pass(model, x)
        x = begun.clone()
        x[:, columns] = model.thought(hidden[:, [column - 1 for column in columns]])
    torch.testing.assert_close(fast, full_pass(model, x), atol=1e-5, rtol=1e-5)


def test_what_on_thought_returns_is_fed_back():
    model, rows = tiny_gpt(), random_rows([3, 3])
    batch, model.config.jacobi = pad(rows, aligned(rows)), 2
    own, _ = think(model, *batch, start=1)
    kept, _ = think(model, *batch, start=1, on_thought=lambda k, thought: thought)
    zeroed, _ = think(model, *batch, start=1, on_thought=lambda k, thought: 0 * thought)
    torch.testing.assert_close(own, kept)
    assert not torch.allclose(own[:, -1], zeroed[:, -1], atol=1e-3)


def test_the_thoughts_shown_are_those_of_the_last_iteration():
    enc = word_encoding([""])
    model, marks = tiny_gpt(vocab_size=enc.n_vocab), markers_of(enc)
    prompts = [[1, 2, 3, marks.bot, *[marks.thought] * 3, marks.eot]]
    loop = thoughts_after(model, prompts, enc)
    model.config.jacobi = 3
    torch.testing.assert_close(thoughts_after(model, prompts, enc), loop, atol=1e-5, rtol=1e-5)
