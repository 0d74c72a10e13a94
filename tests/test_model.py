"""The model and the loop against slow code that is obviously right."""
import pytest
import torch
import torch.nn as nn

from conftest import (aligned, full_pass, late_start, pad, random_rows, right_aligned, slow_think,
                      tiny_gpt)
from model import GPT, Block, GPTConfig, generate, positions_and_mask, supervised_loss, think

BATCHES = {"K=0": [0, 0, 0], "K=1": [1, 1, 1], "K=6": [6, 6, 6], "mixed K": [0, 6, 1, 3, 2]}


def gradients(loss, model):
    """The gradient of each parameter; None where the loss does not depend on it."""
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


# --------------------------------------------------------------------------------------------------
# The loop

@pytest.mark.parametrize("ks", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("align", [True, False], ids=["aligned", "ragged"])
@pytest.mark.parametrize("late", [False, True], ids=["start 1", "late start"])
def test_the_loop_equals_full_passes_in_logits_and_gradients(ks, align, late):
    model, rows = tiny_gpt(), random_rows(ks)
    n_left = aligned(rows) if align else [3 * b % 5 for b in range(len(rows))]
    ids, is_thought, is_real = pad(rows, n_left)
    start = late_start(is_thought) if late else 1

    def logits_and_gradients(hidden_rows):
        logits = [model.lm_head(hidden) for hidden in hidden_rows]
        loss = sum(row.log_softmax(-1)[:, 7].mean() for row in logits)
        return logits, gradients(loss, model)

    hidden, _ = think(model, ids, is_thought, is_real, start)
    assert hidden.shape == (len(rows), ids.size(1) - start + 1, model.config.n_embd)
    fast = logits_and_gradients([states[real[start - 1:]] for states, real in zip(hidden, is_real)])
    slow = logits_and_gradients([slow_think(model, *row)[max(0, start - 1 - left):]
                                 for left, row in zip(n_left, rows)])
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ks", BATCHES.values(), ids=BATCHES.keys())
def test_a_late_start_changes_neither_the_loss_nor_its_gradient_nor_the_cache(ks):
    model, rows = tiny_gpt(), random_rows(ks)
    ids, is_thought, is_real = pad(rows, aligned(rows))
    late = late_start(is_thought)
    targets = ids.masked_fill(~is_real | is_thought, -100)
    targets[:, :late] = -100

    def loss_gradients_and_cache(start):
        hidden, cache = think(model, ids, is_thought, is_real, start)
        loss = supervised_loss(model, hidden, targets)
        return loss, gradients(loss, model), cache

    assert late > 1
    torch.testing.assert_close(loss_gradients_and_cache(late), loss_gradients_and_cache(1),
                               atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("start", [1, 4])
def test_thoughts_may_stand_anywhere(start):
    """Not only in one block after the question: a fork may think twice."""
    model = tiny_gpt()
    row = (list(range(1, 20)), [4, 5, 9, 14])
    hidden, _ = think(model, *pad([row]), start)
    torch.testing.assert_close(hidden[0], slow_think(model, *row)[start - 1:], atol=1e-5, rtol=1e-5)


def test_padding_changes_no_hidden_state():
    model = tiny_gpt()
    row = (list(range(1, 15)), [6, 7, 8])
    alone, _ = think(model, *pad([row]), 1)
    ids, is_thought, is_real = pad([row, (list(range(1, 26)), [])], n_left=[5, 0])
    ids[~is_real] = 33  # whatever a pad holds
    padded, _ = think(model, ids, is_thought, is_real, 1)
    torch.testing.assert_close(padded[0, 5:19], alone[0], atol=1e-5, rtol=1e-5)


def test_a_thought_is_made_of_the_state_before_it_after_the_final_norm():
    model, states, thoughts = tiny_gpt(), [], []
    model.ln_f.register_forward_hook(lambda module, args, output: states.append(output[:, -1]))

    def note(k, thought):
        thoughts.append(thought)
        return thought

    think(model, *pad([(list(range(1, 12)), [5, 6])]), 5, note)  # reads 0-4, 5, and 6-10
    assert (len(states), len(thoughts)) == (3, 2)
    for state, thought in zip(states, thoughts):
        assert torch.equal(thought, model.thought(state))


def test_the_id_in_the_column_of_a_thought_changes_nothing():
    model = tiny_gpt()
    ids, is_thought, is_real = pad([(list(range(1, 12)), [5])])
    hidden, _ = think(model, ids, is_thought, is_real, 1)
    ids[0, 5] = 49
    assert torch.equal(think(model, ids, is_thought, is_real, 1)[0], hidden)


def test_on_thought_sees_every_thought_once_and_in_order():
    model, rows, seen = tiny_gpt(), random_rows([2, 0, 3]), []
    ids, is_thought, is_real = pad(rows, aligned(rows))
    start = late_start(is_thought)

    def note(k, thought):
        seen.append((k, thought))
        return thought

    hidden, _ = think(model, ids, is_thought, is_real, start, note)
    assert torch.equal(hidden, think(model, ids, is_thought, is_real, start)[0])
    assert [k for k, _ in seen] == [0, 1, 2]
    for k, thought in seen:  # hidden begins with the state before the first thought
        torch.testing.assert_close(thought, model.thought(hidden[:, k]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_on_thought_returns_is_fed_back():
    model, rows = tiny_gpt(), random_rows([2, 0, 3])
    n_left = aligned(rows)
    ids, is_thought, is_real = pad(rows, n_left)
    start, given = late_start(is_thought), torch.randn(3, len(rows), model.config.n_embd)
    hidden, _ = think(model, ids, is_thought, is_real, start, lambda k, thought: given[k])
    for b, (left, (row, columns)) in enumerate(zip(n_left, rows)):
        x = model.embed(torch.tensor([row]))
        for k, column in enumerate(columns):
            x[0, column] = given[k, b]
        torch.testing.assert_close(hidden[b, is_real[b, start - 1:]],
                                   full_pass(model, x)[0, max(0, start - 1 - left):],
                                   atol=1e-5, rtol=1e-5)


def test_the_answer_sees_the_question_directly_and_through_the_thoughts():
    """A loop that threw the question's cache away would answer every question alike."""
    model = tiny_gpt()
    ids, is_thought, is_real = pad([(list(range(1, 15)), [8, 9, 10])])
    before = think(model, ids, is_thought, is_real, 8)[0][0, -1]
    ids[0, 2] += 1
    assert (think(model, ids, is_thought, is_real, 8)[0][0, -1] - before).abs().max() > 1e-3

    # Cut every way from question to answer but the thoughts: the last column sees those only.
    embedded = model.embed(ids).detach().requires_grad_()
    model.embed = lambda _: embedded
    forward = model.forward

    def last_column_sees_thoughts_only(x, pos, mask, cache=None, last=None):
        if mask.size(-1) == 14:
            mask = mask.clone()
            mask[:, :, -1, :8] = False
            mask[:, :, -1, 11:13] = False
        return forward(x, pos, mask, cache, last)

    model.forward = last_column_sees_thoughts_only
    think(model, ids, is_thought, is_real, 8)[0][0, -1].sum().backward()
    assert (embedded.grad[0, :8].abs().sum(dim=1) > 0).all()
    assert embedded.grad[0, 8:11].abs().max() == 0  # a placeholder never reaches the model


def test_a_row_longer_than_the_block_is_refused_in_a_sentence():
    model = tiny_gpt(block_size=16)
    with pytest.raises(ValueError, match="17 tokens do not fit into block_size 16"):
        think(model, *pad([(list(range(1, 18)), [])]), 1)
    hidden, _ = think(model, *pad([(list(range(1, 17)), [])], n_left=[3]), 1)  # pads do not count
    assert hidden.shape == (1, 19, model.config.n_embd)


# --------------------------------------------------------------------------------------------------
# The model

def test_cached_and_uncached_hidden_states_are_equal():
    model, ids = tiny_gpt(), torch.randint(0, 50, (3, 20))
    pos, mask = positions_and_mask(torch.ones(3, 20, dtype=torch.bool))
    cache, parts = None, []
    for left, right in [(0, 7), (7, 8), (8, 9), (9, 20)]:
        hidden, cache = model(model.embed(ids[:, left:right]), pos[:, left:right],
                              mask[:, :, left:right, :right], cache)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), full_pass(model, model.embed(ids)),
                               atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("last", [1, 5])
def test_last_leaves_out_states_and_nothing_else(last):
    model, ids = tiny_gpt(), torch.randint(0, 50, (3, 12))
    pos, mask = positions_and_mask(torch.ones(3, 12, dtype=torch.bool))
    hidden, cache = model(model.embed(ids), pos, mask)
    torch.testing.assert_close(model(model.embed(ids), pos, mask, last=last),
                               (hidden[:, -last:], cache), atol=1e-5, rtol=1e-5)


def test_two_continuations_of_one_cache_do_not_meet():
    model, ids, columns = tiny_gpt(), list(range(1, 9)), [4, 5]
    _, cache = think(model, *pad([(ids, columns)]), 1)
    before = [(keys.clone(), values.clone()) for keys, values in cache]

    def last_state_after(new):
        grown = cache
        for n, token in enumerate(new, start=len(ids)):
            mask = torch.ones(1, 1, 1, n + 1, dtype=torch.bool)
            hidden, grown = model(model.embed(torch.tensor([[token]])), torch.tensor([[n]]), mask,
                                  grown)
        return hidden[0, -1]

    for new in ([9, 10, 11], [30, 31], [9, 10, 11]):
        torch.testing.assert_close(last_state_after(new), slow_think(model, ids + new, columns)[-1],
                                   atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache, before, atol=0, rtol=0)


def test_weights_start_by_the_type_of_their_module(monkeypatch):
    class ForkedBlock(Block):
        def __init__(self, config):
            super().__init__(config)
            self.query_bias = nn.LayerNorm(config.n_embd)  # by its name it could be anything
            self.conv = nn.Conv1d(8, 8, 3)
            self.conv_start = [p.detach().clone() for p in self.conv.parameters()]

    monkeypatch.setattr("model.Block", ForkedBlock)
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=500, n_layer=3, n_head=2, n_embd=192))
    std = 0.02 * (768 / 192) ** 0.5
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias is None or not module.bias.any())
    for block in model.h:
        for layer in (block.attn.c_attn, block.mlp.c_fc):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
        for layer in (block.attn.c_proj, block.mlp.c_proj):
            assert layer.weight.std().item() == pytest.approx(std / (2 * 3) ** 0.5, rel=0.03)
        for module in block.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                assert not module.bias.any()
        assert all(map(torch.equal, block.conv.parameters(), block.conv_start))
    assert model.lm_head.weight is model.wte.weight
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.03)


# --------------------------------------------------------------------------------------------------
# Writing

def slow_generate(model, ids, columns, max_new_tokens, end_id):
    """One row, everything computed again for each new token."""
    new = []
    while len(new) < max_new_tokens:
        token = model.lm_head(slow_think(model, ids + new, columns)[-1]).argmax().item()
        if token == end_id:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("ks", BATCHES.values(), ids=BATCHES.keys())
def test_batched_cached_generation_equals_one_row_without_a_cache(ks):
    model, rows = tiny_gpt(seed=1), random_rows(ks, seed=5)
    prompts = pad(rows, right_aligned(rows))
    free = generate(model, *prompts, max_new_tokens=12, end_id=-1)
    assert free == [slow_generate(model, *row, 12, end_id=-1) for row in rows]
    end_id = free[0][4]  # a token that some row writes: rows stop at different times
    stopped = generate(model, *prompts, max_new_tokens=12, end_id=end_id)
    assert stopped == [slow_generate(model, *row, 12, end_id) for row in rows]
    assert len(stopped[0]) < 12 and end_id not in sum(stopped, [])


def test_each_row_may_fill_its_own_block():
    model = tiny_gpt(block_size=16)
    rows = [(list(range(1, 11)), [5]), (list(range(20, 35)), [5]), (list(range(1, 17)), [5])]
    prompts = pad(rows, right_aligned(rows))
    written = generate(model, *prompts, max_new_tokens=6, end_id=-1)
    assert [len(row) for row in written] == [6, 2, 1]  # the last token needs no position
    assert written == [slow_generate(model, *row, 17 - len(row[0]), -1)[:6] for row in rows]
    assert generate(model, *prompts, max_new_tokens=0, end_id=-1) == [[], [], []]
    assert [len(row) for row in generate(model, *prompts, 10**15, end_id=-1)] == [7, 2, 1]


def test_draws_follow_torchs_seed():
    model, rows = tiny_gpt(), random_rows([2, 0, 3])

    def draw(seed):
        torch.manual_seed(seed)
        return generate(model, *pad(rows, right_aligned(rows)), 12, end_id=-1, temperature=1.0)

    assert draw(1) == draw(1) != draw(2)


def test_tokens_are_drawn_by_the_softmax_of_logits_over_temperature():
    model, row, n = tiny_gpt(), (list(range(1, 8)), [4, 5]), 4000
    prompts = [tensor.expand(n, -1) for tensor in pad([row])]
    torch.manual_seed(0)
    drawn = torch.tensor(generate(model, *prompts, 1, end_id=-1, temperature=0.2)).flatten()
    p = (model.lm_head(slow_think(model, *row)[-1]) / 0.2).softmax(dim=-1)
    torch.testing.assert_close(drawn.bincount(minlength=len(p)) / n, p.detach(), atol=0.04, rtol=0)
