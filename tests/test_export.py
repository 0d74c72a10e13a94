"""A run's model for transformers; models of transformers without that package."""
import json
import sys
from pathlib import Path

import pytest
import torch

import train
from analysis import __main__ as analyze
from conftest import ROOT, full_pass
from harness.gpt2 import n_head_of, path_of, read_tensors
from harness.start import load_run
from model import GPT

pytestmark = pytest.mark.house
SHIPPED = ROOT / "results" / "prosqa-balanced.pt"


@torch.no_grad()
@pytest.mark.parametrize("with_safetensors", [False, True])
def test_an_exported_model_read_back_has_the_same_logits(tmp_path, monkeypatch, with_safetensors):
    if with_safetensors:
        pytest.importorskip("safetensors")
    else:
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    analyze.main(["export", str(SHIPPED), str(tmp_path)])
    path = path_of(str(tmp_path))
    assert path.name == ("model.safetensors" if with_safetensors else "pytorch_model.bin")
    tensors = read_tensors(path)
    for name, tensor in tensors.items():  # (in, out), as transformers keeps them
        if name.endswith("c_fc.weight"):
            assert tensor.size(1) == 4 * tensor.size(0)
    _, ours, enc = load_run(SHIPPED)
    again = GPT.from_tensors(tensors, n_head_of(path)).eval()
    ids = torch.randint(enc.n_vocab, (2, 50))
    logits = [model.lm_head(full_pass(model, model.embed(ids))) for model in (ours, again)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_the_exported_files_say_the_sizes_and_the_ids_of_all_tokens(tmp_path):
    analyze.main(["export", str(SHIPPED), str(tmp_path / "new" / "folder")])
    said, tokens = (json.loads((tmp_path / "new" / "folder" / name).read_text("utf-8"))
                    for name in ("config.json", "tokenizer.json"))
    _, model, enc = load_run(SHIPPED)
    assert {name: said[name] for name in ("vocab_size", "n_layer", "n_head", "n_embd")} == {
        name: getattr(model.config, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}
    assert said["n_positions"] == model.config.block_size
    assert said["eos_token_id"] == enc.eot_token
    ids = [*tokens["model"]["vocab"].values(), *(one["id"] for one in tokens["added_tokens"])]
    assert sorted(ids) == [*range(enc.n_vocab)]
    vocabulary = tokens["model"]["vocab"]
    assert vocabulary["Ġdumpus"] == enc.encode_single_token(" dumpus")
    assert all(left + right in vocabulary for left, right in tokens["model"]["merges"])


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="analysis: cannot make the folder .*file"):
        analyze.main(["export", str(SHIPPED), str(tmp_path / "file")])


def test_another_model_without_transformers_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "hacks.huggingface.adapter", raising=False)
    Path(tmp_path, "config.json").write_text('{"model_type": "llama"}')
    ckpt = torch.load(SHIPPED, weights_only=True)
    torch.save(ckpt | {"config": {"transformers": {"model_type": "llama"}}}, tmp_path / "llama.pt")
    for init in (tmp_path, tmp_path / "llama.pt"):
        with pytest.raises(SystemExit, match="train.py: models other than GPT-2 .* pip install -r "
                                             "hacks/huggingface/requirements.txt"):
            train.main(["--init", str(init), "--device", "cpu", "--out_dir", str(tmp_path / "out")])
