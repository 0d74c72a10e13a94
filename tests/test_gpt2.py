"""GPT-2's weights, from released files and from strangers'; the start of small models."""
import json
import math
from pickle import UnpicklingError

import pytest
import torch

from conftest import full_pass
from harness.gpt2 import load_gpt2, n_head_of, path_of, read_tensors
from harness.start import help_small_models
from model import GPT, GPTConfig
from tasks.record import UserError

pytestmark = pytest.mark.house


def released_file(n_layer=2, n_embd=128, vocab_size=40, block_size=24):
    """A small state dict with the names and shapes of the released pytorch_model.bin."""
    generator = torch.Generator().manual_seed(3)

    def rand(*shape):
        return 0.2 * torch.randn(*shape, generator=generator)

    tensors = {"wte.weight": rand(vocab_size, n_embd), "wpe.weight": rand(block_size, n_embd),
               "ln_f.weight": 1 + rand(n_embd), "ln_f.bias": rand(n_embd)}
    for i in range(n_layer):
        tensors[f"h.{i}.attn.bias"] = torch.ones(1, 1, block_size, block_size).tril()
        for norm in (f"h.{i}.ln_1", f"h.{i}.ln_2"):
            tensors |= {f"{norm}.weight": 1 + rand(n_embd), f"{norm}.bias": rand(n_embd)}
        for conv1d, n_in, n_out in [("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1),
                                    ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)]:  # times n_embd
            tensors |= {f"h.{i}.{conv1d}.weight": rand(n_in * n_embd, n_out * n_embd),
                        f"h.{i}.{conv1d}.bias": rand(n_out * n_embd)}
    return tensors


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
    return model.lm_head(full_pass(model, model.embed(torch.tensor([ids]))))[0]


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_causallm.transformer.",
                                    "module.transformer.", "_orig_mod.transformer."])
def test_released_and_wrapped_weights_give_the_logits_of_the_formulas(tmp_path, prefix):
    w, ids, path = released_file(), [3, 1, 4, 1, 5, 9, 2, 6], tmp_path / "pytorch_model.bin"
    tensors = {prefix + name: tensor for name, tensor in w.items()}
    if prefix:
        tensors[prefix.replace("transformer.", "") + "lm_head.weight"] = w["wte.weight"].clone()
        tensors["embedding.weight"] = w["wte.weight"].clone()  # as in the official Coconut
    torch.save(tensors, path, _use_new_zipfile_serialization=prefix != "")  # OpenAI's are older
    for source in (path, tmp_path):  # a file, or the folder that holds it
        logits = logits_of(GPT.from_pretrained(source).eval(), ids)
        torch.testing.assert_close(logits, plain_gpt2(w, ids).float(), atol=1e-4, rtol=1e-4)


def test_the_number_of_heads_comes_from_the_config_beside_the_weights(tmp_path, capsys):
    torch.save(released_file(), tmp_path / "weights.bin")
    assert GPT.from_pretrained(tmp_path / "weights.bin").config.n_head == 2
    assert n_head_of(tmp_path / "weights.bin") is None
    assert "says n_head, so heads have 64" in capsys.readouterr().out
    for config, n_head in [('{"n_head": 4}', 4), ('{"num_attention_heads": 8}', 8), ("{}", 12)]:
        (tmp_path / "config.json").write_text(config)
        assert n_head_of(tmp_path / "weights.bin") == n_head
    (tmp_path / "config.json").write_text('{"n_head": 4}')
    assert GPT.from_pretrained(tmp_path / "weights.bin").config.n_head == 4
    (tmp_path / "config.json").write_text('{"n_head": "4"}')
    with pytest.raises(UserError, match="n_head 4, which is no number of heads"):
        load_gpt2(str(tmp_path / "weights.bin"))


@pytest.mark.parametrize("said", [
    {}, {"reorder_and_upcast_attn": True}, {"activation_function": "gelu_pytorch_tanh"},
    {"activation_function": "gelu"}, {"activation_function": "relu"}, {"layer_norm_epsilon": 1e-2},
    {"n_inner": 100}, {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True},
    {"add_cross_attention": True}, {"tie_word_embeddings": False}])
def test_any_gpt2_of_transformers_gives_its_logits_or_is_refused_by_name(tmp_path, said):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "n_positions": 24, "n_embd": 64, "n_layer": 3, "n_head": 4}
    config = transformers.GPT2Config(**sizes, **said)
    torch.manual_seed(0)
    theirs, ids = transformers.GPT2LMHeadModel(config).eval(), torch.randint(40, (1, 9))
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path, max_shard_size="60kB")
    path = path_of(str(tmp_path))
    assert path.name == "model.safetensors.index.json"
    same = [{}, {"reorder_and_upcast_attn": True}, {"activation_function": "gelu_pytorch_tanh"}]
    if said not in same:
        with pytest.raises((UserError, RuntimeError), match=[*said][0] + "|size mismatch"):
            GPT.from_tensors(read_tensors(path), n_head_of(path))
        return
    ours = GPT.from_tensors(read_tensors(path), n_head_of(path)).eval()
    torch.testing.assert_close(logits_of(ours, ids[0].tolist()), theirs(ids).logits[0].detach(),
                               atol=1e-4, rtol=1e-4)


def test_shards_are_read_and_what_only_looks_like_gpt2_is_named(tmp_path):
    w, index = released_file(), tmp_path / "pytorch_model.bin.index.json"
    for i, part in enumerate((dict([*w.items()][:9]), dict([*w.items()][9:]))):
        torch.save(part, tmp_path / f"part{i}.bin")
    index.write_text(json.dumps({"weight_map": {
        name: f"part{int(i > 8)}.bin" for i, name in enumerate(w)}}))
    assert read_tensors(path_of(str(tmp_path))).keys() == w.keys()
    torch.save({"model": w, "model_args": {}}, tmp_path / "nano.pt")
    (tmp_path / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid 0")
    for name, message in {"nano.pt": "is a checkpoint of nanoGPT", "pointer.bin": "Git-LFS pointer",
                          "none.bin": "no weights at"}.items():
        with pytest.raises(UserError, match=message):
            load_gpt2(str(tmp_path / name))


def test_new_rows_of_the_vocabulary_are_copies_of_one(tmp_path, needs_gpt2_vocabulary):
    """The official code copied each new token onto itself for months."""
    w = released_file(n_layer=1, n_embd=64, vocab_size=50257)
    torch.save(w, tmp_path / "weights.bin")
    model, enc = load_gpt2(str(tmp_path / "weights.bin"))
    copied = w["wte.weight"][enc.encode_single_token("<<")].expand(4, -1)
    assert torch.equal(model.wte.weight, torch.cat([w["wte.weight"], copied]))
    assert model.lm_head.weight is model.wte.weight and model.wte.weight.requires_grad


def test_a_model_is_downloaded_once_and_half_a_download_is_named(tmp_path, monkeypatch):
    served = tmp_path / "gpt2-medium.bin"
    monkeypatch.setattr("model.GPT2_URL", tmp_path.as_uri() + "/{}.bin")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save(released_file(), served)
    first = logits_of(GPT.from_pretrained("gpt2-medium").eval(), [7, 8, 9])
    served.unlink()
    assert torch.equal(logits_of(GPT.from_pretrained("gpt2-medium").eval(), [7, 8, 9]), first)
    kept = tmp_path / "hub" / "gpt2-medium" / "pytorch_model.bin"
    kept.write_bytes(kept.read_bytes()[:9000])
    with pytest.raises(UserError, match="(?s)gpt2-medium/pytorch_model.bin.*delete"):
        load_gpt2("gpt2-medium")


@pytest.mark.parametrize("break_it, message", [
    (lambda w: w.pop("wpe.weight"), "has no matrix 'wpe.weight'"),
    (lambda w: w.pop("h.1.ln_2.bias"), "no whole GPT-2.*h.1.ln_2.bias"),
    (lambda w: w.update({"lm_head.weight": w["wte.weight"] + 1}), "not tied")])
def test_a_state_dict_that_is_no_gpt2_is_refused_in_a_sentence(tmp_path, break_it, message):
    w = released_file()
    break_it(w)
    torch.save(w, tmp_path / "weights.bin")
    with pytest.raises(UserError, match=f"(?s)weights.bin.*{message}"):
        load_gpt2(str(tmp_path / "weights.bin"))


def test_a_file_without_weights_is_refused_and_its_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    path = str(tmp_path / "evil.bin")
    torch.save(Evil(), path)
    for load in (GPT.from_pretrained, load_gpt2):
        with pytest.raises((UnpicklingError, UserError)):
            load(path)
    assert not (tmp_path / "ran").exists(), "a checkpoint ran code"


def test_a_small_model_starts_with_embeddings_of_norm_one_and_thoughts_of_norm_three():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=100, vocab_size=90, n_layer=2, n_head=4, n_embd=96))
    help_small_models(model)
    torch.testing.assert_close(model.wpe.weight.norm(dim=1), torch.ones(100))
    x, ones = model.embed(torch.randint(90, (8, 100))), torch.ones(1, 1, 100, 100).bool().tril()
    hidden, _ = model(x, torch.arange(100).expand(8, -1), ones)
    assert 0.9 < x.norm(dim=-1).mean() < 1.1
    assert 2.8 < model.thought(hidden).norm(dim=-1).mean() < 3.1
