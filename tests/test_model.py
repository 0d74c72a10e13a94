"""The model and the loop against slow code that is obviously right."""
import math

import pytest
import torch

from conftest import tiny_gpt
from harness.files import read_torch
from harness.gpt2 import load_gpt2, n_head_beside, weights_file
from model import GPT, GPTConfig, first_predicting, generate, supervised_loss, think


def pad(rows, n_left=None):
    """[(ids, thought columns), ..] -> ids, thought, real, with n_left pads before each row."""
    n_left = n_left or [0] * len(rows)
    B, T = len(rows), max(left + len(ids) for left, (ids, _) in zip(n_left, rows))
    ids = torch.zeros(B, T, dtype=torch.long)
    thought, real = torch.zeros(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.bool)
    for b, (left, (row, columns)) in enumerate(zip(n_left, rows)):
        ids[b, left:left + len(row)] = torch.tensor(row)
        real[b, left:left + len(row)] = True
        thought[b, [left + column for column in columns]] = True
    return ids, thought, real


def aligned(rows):
    """Pads that put all first thoughts into one column, as data.collate does."""
    first = max((columns[0] for _, columns in rows if columns), default=0)
    return [first - columns[0] if columns else 0 for _, columns in rows]


def slow_think(model, ids, columns):
    """One row, n + 1 full forward passes from scratch, no cache, no padding: the definition."""
    x = model.embed(torch.tensor([ids]))
    for column in sorted(columns):
        hidden, _ = model(x)
        x = torch.cat([x[:, :column], hidden[:, column - 1:column], x[:, column + 1:]], dim=1)
    return model(x)[0][0]  # (T, C)


def random_rows(ks, seed=0):
    """Rows of question, k thoughts and rest, all of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for k in ks:
        question, rest = torch.randint(2, 12, (2,), generator=generator).tolist()
        ids = torch.randint(1, 50, (question + k + rest,), generator=generator).tolist()
        rows.append((ids, list(range(question, question + k))))
    return rows


BATCHES = {"K=0": [0, 0, 0], "K=1": [1, 1, 1], "K=6": [6, 6, 6], "mixed K": [0, 6, 1, 3, 2]}


@pytest.mark.parametrize("ks", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("align", [True, False], ids=["aligned", "not aligned"])
def test_the_loop_differs_from_full_forward_passes_in_logits_or_gradients(ks, align):
    model, rows = tiny_gpt(), random_rows(ks)
    n_left = aligned(rows) if align else [3 * b % 5 for b in range(len(rows))]

    def logits_and_gradients(hidden_rows):
        logits = [model.lm_head(hidden) for hidden in hidden_rows]
        loss = sum(row.log_softmax(-1)[:, 7].mean() for row in logits)
        return logits, torch.autograd.grad(loss, list(model.parameters()))

    hidden = think(model, *pad(rows, n_left))
    fast = logits_and_gradients([hidden[b, left:left + len(ids)]
                                 for b, (left, (ids, _)) in enumerate(zip(n_left, rows))])
    slow = logits_and_gradients([slow_think(model, *row) for row in rows])
    for ours, theirs in zip(fast, slow):
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ks", BATCHES.values(), ids=BATCHES.keys())
def test_leaving_out_states_that_predict_nothing_changes_the_loss_its_gradient_or_the_cache(ks):
    model, rows = tiny_gpt(), random_rows(ks)
    ids, thought, real = pad(rows, aligned(rows))
    targets = ids.masked_fill(~real, -100)
    for row, (_, columns) in zip(targets, rows):  # learned is what follows the thoughts, or half
        row[:thought.nonzero()[:, 1].max() + 1 if columns else len(row) // 2] = -100

    def loss_gradient_and_cache(since):
        hidden, past = think(model, ids, thought, real, return_past=True, since=since)
        assert hidden.shape == (*ids.shape[:1], ids.size(1) - since, model.config.n_embd)
        loss = supervised_loss(model, hidden, targets)
        return loss, torch.autograd.grad(loss, list(model.parameters())), past

    assert first_predicting(targets) > 0
    torch.testing.assert_close(loss_gradient_and_cache(first_predicting(targets)),
                               loss_gradient_and_cache(0), atol=1e-4, rtol=1e-5)


def test_thoughts_outside_one_block_after_the_question_go_wrong():
    """Not only in one block after the question: a fork may think twice."""
    model = tiny_gpt()
    row = (list(range(1, 20)), [4, 5, 9, 14])
    torch.testing.assert_close(think(model, *pad([row]))[0], slow_think(model, *row),
                               atol=1e-5, rtol=1e-5)


def test_padding_changes_a_hidden_state():
    model = tiny_gpt()
    row = (list(range(1, 15)), [6, 7, 8])
    alone = think(model, *pad([row]))[0]
    ids, thought, real = pad([row, (list(range(1, 26)), [])], n_left=[5, 0])
    ids[~real] = 33  # whatever a pad holds
    padded = think(model, ids, thought, real)[0, 5:19]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_cached_and_uncached_hidden_states_differ():
    model, ids = tiny_gpt(), torch.randint(0, 50, (3, 20))
    whole, _ = model(model.embed(ids))
    past, parts = None, []
    for chunk in ids.split([7, 1, 1, 11], dim=1):
        hidden, past = model(model.embed(chunk), past=past)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_a_thought_is_not_the_last_hidden_state_after_the_final_layer_norm():
    """The id in a thought's column changes nothing: the state of the column before it counts."""
    model = tiny_gpt()
    ids, thought, real = pad([(list(range(1, 12)), [5])])
    hidden = think(model, ids, thought, real)
    ids[0, 5] = 49
    assert torch.equal(think(model, ids, thought, real), hidden)
    # Without the norm's weight and bias, what is left has mean 0 and variance 1.
    state = (hidden[0, 4] - model.ln_f.bias) / model.ln_f.weight
    assert abs(state.mean()) < 1e-4 and abs(state.var(correction=0) - 1) < 1e-3


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
def test_batched_cached_generation_differs_from_one_row_without_a_cache(ks):
    model, rows = tiny_gpt(seed=1), random_rows(ks, seed=5)
    free = generate(model, *pad(rows, aligned(rows)), max_new_tokens=12, end_id=-1)
    assert free == [slow_generate(model, *row, 12, end_id=-1) for row in rows]
    end_id = free[0][4]  # a token that some row writes: rows stop at different times
    stopped = generate(model, *pad(rows, aligned(rows)), max_new_tokens=12, end_id=end_id)
    assert stopped == [slow_generate(model, *row, 12, end_id) for row in rows]
    assert len(stopped[0]) < 12 and end_id not in sum(stopped, [])


def test_finished_rows_go_on_costing_time(monkeypatch):
    """Three rows of four write the end token at once; every pass after that holds one row."""
    model, (one, other) = tiny_gpt(seed=1), random_rows((2, 2), seed=7)
    rows, sizes, forward = [one, one, other, one], [], model.forward

    def counted(x, *args):
        sizes.append(len(x))
        return forward(x, *args)

    monkeypatch.setattr(model, "forward", counted)
    end_id = generate(model, *pad(rows), max_new_tokens=1, end_id=-1)[0][0]
    before = len(sizes)  # passes before the first new token
    written = generate(model, *pad(rows), max_new_tokens=6, end_id=end_id)
    assert [len(row) for row in written] == [0, 0, 6, 0]
    assert written[2] == slow_generate(model, *other, 6, end_id)
    assert sizes[before:][:before + 5] == [4] * before + [1] * 5


def test_generation_runs_out_of_the_block_or_stops_for_another_rows_sake():
    model = tiny_gpt(block_size=16)
    rows = [(list(range(1, 11)), [5]), (list(range(20, 35)), [5]), (list(range(1, 17)), [5])]
    written = generate(model, *pad(rows), max_new_tokens=6, end_id=-1)
    assert [len(row) for row in written] == [6, 2, 1]  # the last token needs no position
    assert written == [slow_generate(model, *row, 17 - len(row[0]), -1)[:6] for row in rows]
    assert generate(model, *pad(rows), max_new_tokens=0, end_id=-1) == [[], [], []]
    assert [len(row) for row in generate(model, *pad(rows), 10**15, end_id=-1)] == [7, 2, 1]


def test_a_row_longer_than_the_block_gets_no_clear_sentence():
    with pytest.raises(ValueError, match="17 tokens do not fit into block_size 16"):
        think(tiny_gpt(block_size=16), *pad([(list(range(1, 18)), [])]))


def test_the_question_or_its_thoughts_do_not_reach_the_answer():
    """A loop that threw the question's cache away would answer every question alike."""
    model = tiny_gpt()
    ids, thought, real = pad([(list(range(1, 15)), [8, 9, 10])])
    before = think(model, ids, thought, real)[0, -1]
    ids[0, 2] += 1
    assert (think(model, ids, thought, real)[0, -1] - before).abs().max() > 1e-3

    # Cut every way from question to answer but the thoughts: the last column sees those only.
    embedded = model.embed(ids).detach().requires_grad_()
    model.embed = lambda _: embedded
    forward = model.forward

    def last_column_sees_thoughts_only(x, pos, mask, past, since):
        if mask.size(-1) == 14:
            mask = mask.clone()
            mask[:, :, -1, :8] = False
            mask[:, :, -1, 11:13] = False
        return forward(x, pos, mask, past, since)

    model.forward = last_column_sees_thoughts_only
    think(model, ids, thought, real)[0, -1].sum().backward()
    assert (embedded.grad[0, :8].abs().sum(dim=1) > 0).all()
    assert embedded.grad[0, 8:11].abs().max() == 0  # a placeholder never reaches the model


# ---------------------------------------------------------------------------------------------
# The start

def test_a_head_does_not_start_by_looking_as_far_back_as_it_should():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=100, vocab_size=90, n_layer=1, n_head=4, n_embd=128))
    x = model.embed(torch.randint(90, (8, 100))) + model.wpe.weight
    qkv = model.h[0].attn.c_attn(model.h[0].ln_1(x)).view(8, 100, 3, 4, 32)
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    attention = (queries @ keys.mT / 32 ** 0.5).softmax(dim=-1).mean(dim=0)  # (4, 100, 100)
    for head, back in enumerate((1, 2, 3)):
        weights = [attention[head].diagonal(-n).mean().item() for n in range(6)]
        assert max(weights) == weights[back] > 0.4


# ---------------------------------------------------------------------------------------------
# OpenAI's weights

def released_file(n_layer=2, n_embd=128, vocab_size=40, block_size=24):
    """A small state dict with the names and shapes of the released pytorch_model.bin."""
    generator = torch.Generator().manual_seed(3)

    def rand(*shape):
        return 0.2 * torch.randn(*shape, generator=generator)

    C = n_embd
    tensors = {"wte.weight": rand(vocab_size, C), "wpe.weight": rand(block_size, C)}
    for i in range(n_layer):
        h = f"h.{i}."
        tensors |= {h + "ln_1.weight": 1 + rand(C), h + "ln_1.bias": rand(C),
                    h + "attn.bias": torch.ones(1, 1, block_size, block_size).tril(),
                    h + "attn.c_attn.weight": rand(C, 3 * C), h + "attn.c_attn.bias": rand(3 * C),
                    h + "attn.c_proj.weight": rand(C, C), h + "attn.c_proj.bias": rand(C),
                    h + "ln_2.weight": 1 + rand(C), h + "ln_2.bias": rand(C),
                    h + "mlp.c_fc.weight": rand(C, 4 * C), h + "mlp.c_fc.bias": rand(4 * C),
                    h + "mlp.c_proj.weight": rand(4 * C, C), h + "mlp.c_proj.bias": rand(C)}
    return tensors | {"ln_f.weight": 1 + rand(C), "ln_f.bias": rand(C)}


def plain_gpt2(w, ids):
    """GPT-2 on one row of ids, from the released tensors by their formulas, in double precision."""
    w = {name: tensor.double() for name, tensor in w.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * w[name + ".weight"] + w[name + ".bias"]

    def conv1d(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    T, x = len(ids), w["wte.weight"][ids] + w["wpe.weight"][:len(ids)]
    for i in range(sum(name.endswith("c_attn.weight") for name in w)):
        q, k, v = conv1d(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, dim=-1)
        heads = []
        for q, k, v in zip(q.split(64, -1), k.split(64, -1), v.split(64, -1)):
            scores = q @ k.T / math.sqrt(64)
            scores[torch.ones(T, T).triu(1).bool()] = -torch.inf
            heads.append(scores.softmax(-1) @ v)
        x = x + conv1d(torch.cat(heads, -1), f"h.{i}.attn.c_proj")
        y = conv1d(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y ** 3)))
        x = x + conv1d(y, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def logits_of(model, ids):
    with torch.no_grad():
        return model.lm_head(model(model.embed(torch.tensor([ids])))[0])[0]


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_like_the_released_one_gives_other_logits_than_the_formulas(tmp_path, zip_format):
    w, ids = released_file(), [3, 1, 4, 1, 5, 9, 2, 6]
    torch.save(w, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zip_format)
    expected = plain_gpt2(w, ids).float()
    for source in (tmp_path / "pytorch_model.bin", tmp_path):  # a file, or the folder that holds it
        model = GPT.from_pretrained(read_torch(weights_file(source))).eval()
        assert (model.config.n_layer, model.config.n_head) == (2, 2)
        torch.testing.assert_close(logits_of(model, ids), expected, atol=1e-4, rtol=1e-4)


def test_the_number_of_heads_in_a_config_beside_the_weights_is_ignored(tmp_path):
    (tmp_path / "config.json").write_text('{"n_head": 4}')
    n_head = n_head_beside(tmp_path / "pytorch_model.bin")
    assert GPT.from_pretrained(released_file(), n_head).config.n_head == n_head == 4


@pytest.mark.parametrize("prefix", ["transformer.", "base_causallm.transformer."])
def test_names_with_the_prefixes_of_wrappers_do_not_load(prefix):
    w = released_file()
    wrapped = {prefix + name: tensor for name, tensor in w.items()}
    wrapped[prefix.replace("transformer.", "") + "lm_head.weight"] = w["wte.weight"].clone()
    if prefix.startswith("base"):
        wrapped["embedding.weight"] = w["wte.weight"].clone()  # the official Coconut's second name
    ids = [7, 8, 9]
    assert torch.equal(logits_of(GPT.from_pretrained(wrapped).eval(), ids),
                       logits_of(GPT.from_pretrained(w).eval(), ids))


def test_new_rows_of_the_vocabulary_are_no_copies_or_lose_the_head():
    """The official code copied each new token onto itself for months."""
    model = GPT.from_pretrained(released_file())
    old = model.wte.weight.detach().clone()
    model.grow_vocab(44, like=11)
    assert model.lm_head.weight is model.wte.weight and model.config.vocab_size == 44
    assert torch.equal(model.wte.weight[:40], old)
    assert torch.equal(model.wte.weight[40:], old[11].expand(4, -1))
    assert model.wte.weight.requires_grad


@pytest.mark.parametrize("break_it, message", [
    (lambda w: w.pop("wpe.weight"), "has no matrix wpe.weight"),
    (lambda w: w.update({"wpe.weight": 5}), "holds no whole GPT-2"),
    (lambda w: w.pop("h.1.ln_2.bias"), "no whole GPT-2.*h.1.ln_2.bias"),
    (lambda w: w.update({"lm_head.weight": w["wte.weight"] + 1}), "not tied"),
])
def test_a_state_dict_that_is_no_gpt2_is_loaded_or_refused_unclearly(tmp_path, break_it, message):
    w = released_file()
    break_it(w)
    with pytest.raises((KeyError, AttributeError, TypeError, RuntimeError, ValueError)):
        GPT.from_pretrained(w)
    torch.save(w, tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=f"(?s)weights.bin.*{message}"):
        load_gpt2(str(tmp_path / "weights.bin"))


def test_a_file_without_weights_is_loaded_or_its_code_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save(Evil(), tmp_path / "evil.bin")
    (tmp_path / "text.bin").write_text("not weights")
    (tmp_path / "empty.bin").write_bytes(b"")
    torch.save(torch.zeros(3), tmp_path / "tensor.bin")
    for name in ("evil.bin", "text.bin", "empty.bin", "tensor.bin", "absent.bin"):
        with pytest.raises(ValueError, match=name):
            load_gpt2(str(tmp_path / name))
    assert not (tmp_path / "ran").exists(), "a checkpoint ran code"
