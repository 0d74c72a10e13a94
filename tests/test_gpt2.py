"""GPT-2's weights, from the released files and from strangers'; the start of small models."""
import math

import pytest
import torch

from harness.gpt2 import grow_vocab, load_gpt2
from harness.start import help_small_models
from model import GPT, GPTConfig, positions_and_mask

pytestmark = pytest.mark.house


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


@torch.no_grad()
def logits_of(model, ids):
    pos, mask = positions_and_mask(torch.ones(1, len(ids), dtype=torch.bool))
    return model.lm_head(model(model.embed(torch.tensor([ids])), pos, mask)[0])[0]


# --------------------------------------------------------------------------------------------------
# Files

@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_like_the_released_one_gives_the_logits_of_the_formulas(tmp_path, zip_format):
    w, ids = released_file(), [3, 1, 4, 1, 5, 9, 2, 6]
    torch.save(w, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zip_format)
    expected = plain_gpt2(w, ids).float()
    for source in (tmp_path / "pytorch_model.bin", tmp_path):  # a file, or the folder that holds it
        model = GPT.from_pretrained(str(source)).eval()
        assert (model.config.n_layer, model.config.n_head) == (2, 2)
        torch.testing.assert_close(logits_of(model, ids), expected, atol=1e-4, rtol=1e-4)


def test_the_number_of_heads_comes_from_the_config_beside_the_weights(tmp_path, capsys):
    path = tmp_path / "pytorch_model.bin"
    torch.save(released_file(), path)
    assert GPT.from_pretrained(path).config.n_head == 2
    assert f"no n_head in {tmp_path / 'config.json'}: 2 heads, of 64" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"n_head": 4}')
    assert GPT.from_pretrained(path).config.n_head == 4
    assert not capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert GPT.from_pretrained(path).config.n_head == 2
    (tmp_path / "config.json").write_text('{"n_head": 3}')
    with pytest.raises(ValueError, match="holds no whole GPT-2 .*n_head=3"):
        load_gpt2(str(path))


@pytest.mark.parametrize("prefix", ["transformer.", "base_causallm.transformer.",
                                    "module.transformer.", "_orig_mod.transformer."])
def test_names_with_the_prefixes_of_wrappers_load(tmp_path, prefix):
    w = released_file()
    wrapped = {prefix + name: tensor for name, tensor in w.items()}
    wrapped[prefix.replace("transformer.", "") + "lm_head.weight"] = w["wte.weight"].clone()
    if prefix.startswith("base"):
        wrapped["embedding.weight"] = w["wte.weight"].clone()  # the official Coconut's second name
    torch.save(w, tmp_path / "plain.bin")
    torch.save(wrapped, tmp_path / "wrapped.bin")
    ids = [7, 8, 9]
    assert torch.equal(logits_of(GPT.from_pretrained(tmp_path / "wrapped.bin").eval(), ids),
                       logits_of(GPT.from_pretrained(tmp_path / "plain.bin").eval(), ids))


def test_new_rows_of_the_vocabulary_are_copies_and_the_head_stays_tied(tmp_path):
    """The official code copied each new token onto itself for months."""
    torch.save(released_file(), tmp_path / "weights.bin")
    model = GPT.from_pretrained(tmp_path / "weights.bin")
    old = model.wte.weight.detach().clone()
    grow_vocab(model, 44, like=11)
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
def test_a_state_dict_that_is_no_gpt2_is_refused_in_a_sentence(tmp_path, break_it, message):
    w = released_file()
    break_it(w)
    torch.save(w, tmp_path / "weights.bin")
    with pytest.raises((KeyError, AttributeError, TypeError, RuntimeError, ValueError)):
        GPT.from_pretrained(tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=f"(?s)weights.bin.*{message}"):
        load_gpt2(str(tmp_path / "weights.bin"))


def test_a_file_without_weights_is_refused_and_its_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save(Evil(), tmp_path / "evil.bin")
    (tmp_path / "text.bin").write_text("not weights")
    (tmp_path / "empty.bin").write_bytes(b"")
    torch.save(torch.zeros(3), tmp_path / "tensor.bin")
    for name in ("evil.bin", "text.bin", "empty.bin", "tensor.bin", "absent.bin"):
        with pytest.raises(Exception):
            GPT.from_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=name):
            load_gpt2(str(tmp_path / name))
    assert not (tmp_path / "ran").exists(), "a checkpoint ran code"


# --------------------------------------------------------------------------------------------------
# Downloads

@pytest.fixture
def served(tmp_path, monkeypatch):
    """The file that is downloaded as gpt2-medium, to tmp_path/hub/gpt2-medium."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setattr("model.GPT2_URL", folder.as_uri() + "/{}.bin")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save(released_file(), folder / "gpt2-medium.bin")
    return folder / "gpt2-medium.bin"


def test_a_released_model_is_downloaded_once(tmp_path, served):
    expected = logits_of(GPT.from_pretrained(served).eval(), [7, 8, 9])
    model = GPT.from_pretrained("gpt2-medium").eval()
    assert torch.equal(logits_of(model, [7, 8, 9]), expected)
    kept, = (tmp_path / "hub" / "gpt2-medium").iterdir()
    assert kept.name == "pytorch_model.bin"
    served.unlink()
    model = GPT.from_pretrained("gpt2-medium").eval()
    assert torch.equal(logits_of(model, [7, 8, 9]), expected)


def test_half_a_download_is_named_with_the_advice_to_delete_it(tmp_path, served):
    whole = served.read_bytes()
    served.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="(?s)gpt2-medium/pytorch_model.bin.*delete"):
        load_gpt2("gpt2-medium")


# --------------------------------------------------------------------------------------------------
# From scratch

def test_heads_of_the_first_layer_start_by_looking_one_two_and_three_tokens_back():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=100, vocab_size=90, n_layer=1, n_head=4, n_embd=128))
    help_small_models(model)
    x = model.embed(torch.randint(90, (8, 100))) + model.wpe.weight
    qkv = model.h[0].attn.c_attn(model.h[0].ln_1(x)).view(8, 100, 3, 4, 32)
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    attention = (queries @ keys.mT / 32 ** 0.5).softmax(dim=-1).mean(dim=0)  # (4, 100, 100)
    for head, back in enumerate((1, 2, 3)):
        weights = [attention[head].diagonal(-n).mean().item() for n in range(6)]
        assert max(weights) == weights[back] > 0.4
