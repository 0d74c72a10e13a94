"""The loop and the model against slow code that is obviously right."""
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from conftest import aligned, full_pass, late_start, pad, random_rows, slow_think, tiny_gpt
from model import GPT, Block, GPTConfig, generate, positions_and_mask, supervised_loss, think

BATCHES = {"K=0": random_rows([0, 0, 0]), "K=1": random_rows([1, 1, 1]),
           "K=6": random_rows([6, 6, 6]), "mixed K": random_rows([0, 6, 1, 3, 2]),
           "thoughts apart": [(list(range(1, 20)), [4, 5, 9, 14]), (list(range(5, 18)), [3, 8])]}
all_batches = pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES.keys())


@all_batches
@pytest.mark.parametrize("align", [True, False], ids=["aligned", "ragged"])
@pytest.mark.parametrize("late", [False, True], ids=["start 1", "late start"])
def test_the_loop_equals_full_passes_and_so_do_its_gradients(rows, align, late):
    model = tiny_gpt()
    model.thought = lambda hidden: hidden.flip(-1)  # as a fork might have it
    n_left = aligned(rows) if align else [3 * b % 5 for b in range(len(rows))]
    ids, is_thought, is_real = pad(rows, n_left)
    start = late_start(is_thought) if late else 1

    def logits_and_gradients(hidden_rows):
        logits = [model.lm_head(hidden) for hidden in hidden_rows]
        loss = sum(row.log_softmax(-1)[:, 7].mean() for row in logits)
        return logits, torch.autograd.grad(loss, list(model.parameters()))

    hidden, _ = think(model, ids, is_thought, is_real, start)
    assert hidden.shape == (len(rows), ids.size(1) - start + 1, model.config.n_embd)
    fast = logits_and_gradients([states[real[start - 1:]] for states, real in zip(hidden, is_real)])
    slow = logits_and_gradients([slow_think(model, *row)[max(0, start - 1 - left):]
                                 for left, row in zip(n_left, rows)])
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_padding_changes_no_hidden_state():
    model, row = tiny_gpt(), (list(range(1, 15)), [6, 7, 8])
    alone, _ = think(model, *pad([row]), 1)
    ids, is_thought, is_real = pad([row, (list(range(1, 26)), [])], n_left=[5, 0])
    ids[~is_real] = 33  # whatever a pad holds
    padded, _ = think(model, ids, is_thought, is_real, 1)
    torch.testing.assert_close(padded[0, 5:19], alone[0], atol=1e-5, rtol=1e-5)


def test_cached_states_equal_uncached_ones():
    """Also where two texts go on from one cache, in turns: it is never changed in place."""
    model, ids = tiny_gpt(), torch.randint(0, 50, (2, 3, 20))
    ids[1, :, :7] = ids[0, :, :7]
    pos, mask = positions_and_mask(torch.ones(3, 20, dtype=torch.bool))
    _, cache = model(model.embed(ids[0, :, :7]), pos[:, :7], mask[:, :, :7, :7])
    caches = [cache, cache]
    for left, right in [(7, 8), (8, 9), (9, 20)]:
        for i, text in enumerate(ids):
            hidden, caches[i] = model(model.embed(text[:, left:right]), pos[:, left:right],
                                      mask[:, :, left:right, :right], caches[i])
            uncached = full_pass(model, model.embed(text))[:, left:right]
            torch.testing.assert_close(hidden, uncached, atol=1e-5, rtol=1e-5)


def test_on_thought_gets_the_state_after_the_final_norm_and_returns_what_is_fed_back():
    model, ids, columns = tiny_gpt(), list(range(1, 20)), [4, 5, 9]
    given, seen, normed = torch.randn(1, 3, model.config.n_embd), [], []
    model.ln_f.register_forward_hook(lambda module, args, output: normed.append(output[:, -1]))

    def exchange(k, thought):
        seen.append(thought)
        return given[:, k]

    hidden, _ = think(model, *pad([(ids, columns)]), 4, exchange)
    assert len(seen) == 3 and all(map(torch.equal, seen, map(model.thought, normed)))
    x = model.embed(torch.tensor([ids]))
    x[:, columns] = given
    torch.testing.assert_close(hidden, full_pass(model, x)[:, 3:], atol=1e-5, rtol=1e-5)


def test_pauses_read_in_passes_of_their_own_are_the_function_that_one_pass_computes():
    """So passes alone are no advantage of thoughts over pauses: what goes into them is."""
    model, columns = tiny_gpt(), [4, 5, 6]
    ids, is_thought, is_real = pad([(list(range(1, 20)), columns)])
    one_by_one, _ = think(model, ids, is_thought, is_real, 4,
                          lambda k, thought: model.embed(ids[:, columns[k]]))
    at_once = full_pass(model, model.embed(ids))[:, 3:]
    torch.testing.assert_close(one_by_one, at_once, atol=1e-5, rtol=1e-5)
    gradients = (torch.autograd.grad(states.square().mean(), list(model.parameters()))
                 for states in (one_by_one, at_once))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_row_longer_than_the_block_is_refused_in_a_sentence():
    model = tiny_gpt(block_size=16)
    with pytest.raises(ValueError, match="17 tokens do not fit into block_size 16"):
        think(model, *pad([(list(range(1, 18)), [])]), 1)
    hidden, _ = think(model, *pad([(list(range(1, 17)), [])], n_left=[3]), 1)  # pads do not count
    assert hidden.shape == (1, 19, model.config.n_embd)


def test_the_loss_is_the_cross_entropy_of_the_supervised_tokens():
    model, ids = tiny_gpt(), torch.randint(0, 50, (2, 9))
    targets = ids.masked_fill(torch.rand(2, 9) < 0.5, -100)
    targets[:, :4] = -100
    hidden = full_pass(model, model.embed(ids))
    logits = model.lm_head(hidden[:, :-1])
    expected = F.cross_entropy(logits.mT, targets[:, 1:], ignore_index=-100, reduction="sum")
    torch.testing.assert_close(supervised_loss(model, hidden[:, 3:], targets), expected)


def prompts(rows):
    """ids, is_thought, is_real of rows that all end in the last column, as `generate` needs it."""
    longest = max(len(ids) for ids, _ in rows)
    return pad(rows, [longest - len(ids) for ids, _ in rows])


def slow_generate(model, ids, columns, max_new_tokens, end_id=-1):
    """One row, everything computed again for each new token."""
    new = []
    while len(new) < max_new_tokens:
        token = model.lm_head(slow_think(model, ids + new, columns)[-1]).argmax().item()
        if token == end_id:
            break
        new.append(token)
    return new


@all_batches
def test_batched_cached_generation_equals_one_row_without_a_cache(rows):
    model = tiny_gpt(seed=1)
    free = generate(model, *prompts(rows), max_new_tokens=12, end_id=-1)
    assert free == [slow_generate(model, *row, 12) for row in rows]
    end_id = free[0][4]  # a token that some row writes: rows stop at different times
    stopped = generate(model, *prompts(rows), max_new_tokens=12, end_id=end_id)
    assert stopped == [slow_generate(model, *row, 12, end_id) for row in rows]
    assert len(stopped[0]) < 12


def test_each_row_may_fill_its_own_block():
    model = tiny_gpt(block_size=16)
    rows = [(list(range(1, 11)), [5]), (list(range(20, 35)), [5]), (list(range(1, 17)), [5])]
    for most, lengths in [(0, [0, 0, 0]), (6, [6, 2, 1]), (10**15, [7, 2, 1])]:
        written = generate(model, *prompts(rows), max_new_tokens=most, end_id=-1)
        assert [len(row) for row in written] == lengths  # the last token needs no position
        assert written == [slow_generate(model, *row, n) for row, n in zip(rows, lengths)]


def test_tokens_are_drawn_by_the_softmax_of_logits_over_temperature():
    model, row, n = tiny_gpt(), (list(range(1, 8)), [4, 5]), 4000
    many = [tensor.expand(n, -1) for tensor in pad([row])]
    torch.manual_seed(0)
    drawn = torch.tensor(generate(model, *many, 1, end_id=-1, temperature=0.2)).flatten()
    p = (model.lm_head(slow_think(model, *row)[-1]) / 0.2).softmax(dim=-1)
    torch.testing.assert_close(drawn.bincount(minlength=len(p)) / n, p.detach(), atol=0.04, rtol=0)


def test_weights_start_by_the_type_of_their_module(monkeypatch):
    class ForkedBlock(Block):
        def __init__(self, config):
            super().__init__(config)
            self.query_bias = nn.LayerNorm(config.n_embd)  # by its name it could be anything

    monkeypatch.setattr("model.Block", ForkedBlock)
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=500, n_layer=3, n_head=2, n_embd=192))
    std = 0.02 * (768 / 192) ** 0.5  # GPT-2's width over ours
    for block in model.h:
        assert (block.query_bias.weight == 1).all()
        for part, divisor in ((block.attn.c_attn, 1), (block.mlp.c_fc, 1),
                              (block.attn.c_proj, 6 ** 0.5), (block.mlp.c_proj, 6 ** 0.5)):
            assert part.weight.std().item() == pytest.approx(std / divisor, rel=0.03)
            assert not part.bias.any()
    assert model.lm_head.weight is model.wte.weight
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.03)
