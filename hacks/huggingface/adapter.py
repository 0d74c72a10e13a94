"""
Causal language models of the package transformers with the ends that model.GPT has, so that think,
generate, train.py, sample.py and the analysis run on them unchanged. See README.md.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from hacks.huggingface.tokens import Encoding, read_encoding  # noqa: F401 (for load_run)
from model import think
from tasks.record import UserError


@dataclass
class Config:
    """What the code asks of a model's config; and transformers' own config, as a dict, where
    "frozen_layers": N keeps the embeddings and the N lowest layers as they are."""
    transformers: dict
    block_size: int
    vocab_size: int
    n_embd: int
    dropout: float = 0.0


class Model(nn.Module):
    """A model of transformers: inputs by `embed` or `thought`, hidden states out, for `lm_head`."""
    def __init__(self, config, hf=None):
        super().__init__()
        self.config = config
        self.hf = hf or AutoModelForCausalLM.from_config(
            their_config(config.transformers, config.dropout), dtype=torch.float32)
        self.wte, self.lm_head = self.hf.get_input_embeddings(), self.hf.get_output_embeddings()
        if n := config.transformers.get("frozen_layers"):
            for part in (self.wte, *self.hf.base_model.layers[:n]):
                part.requires_grad_(False)

    def embed(self, ids):
        return self.wte(ids)

    def thought(self, hidden):
        return hidden

    def forward(self, x, pos, mask, cache=None, last=None):
        """As in model.GPT; the cache is keys and values of each layer, (B, heads, cached, size)."""
        seen = DynamicCache(cache)  # a new one at each call, as transformers adds to it in place
        bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, torch.finfo(x.dtype).min)
        out = self.hf.base_model(inputs_embeds=x, position_ids=pos, attention_mask=bias,
                                 cache=seen, use_cache=True)
        grown = [(layer.keys, layer.values) for layer in out.cache.layers]
        return out.last_hidden_state[:, -(last or x.size(1)):], grown

    @property
    def h(self):
        raise UserError("--optimizer muon knows the layers of GPT-2 alone: use adamw")


def their_config(said, dropout):
    """The config that transformers makes of a dict, with one rate for every kind of dropout."""
    config = CONFIG_MAPPING[said["model_type"]].from_dict(said)
    for name in config.to_dict():
        if name.endswith(("dropout", "_pdrop")):
            setattr(config, name, dropout)
    return config


@torch.no_grad()
def load(folder, dropout=0.0):
    """(Model, Encoding) of a folder that save_pretrained has written. Our special tokens start as
    copies of the first token of "<<". UserError if a part is missing, or if the model's logits are
    not those that transformers computes."""
    try:
        config = their_config(json.loads(Path(folder, "config.json").read_text("utf-8")), dropout)
        hf, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True)
        if missing := info["missing_keys"] | info["mismatched_keys"]:
            raise ValueError(f"no weights for {', '.join(map(str, missing))}")
        enc, new = read_encoding(folder, hf.generation_config.eos_token_id)
        if enc.n_vocab > len(hf.get_input_embeddings().weight):  # many tables have spare rows
            hf.resize_token_embeddings(enc.n_vocab, mean_resizing=False)
        for table in (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight):
            table[new] = table[enc.encode_ordinary("<<")[0]].clone()
        windows = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
        block_size = min(filter(None, (getattr(config, n, None) for n in windows)), default=1024)
        config = json.loads(hf.config.to_json_string(use_diff=False))  # plain values only
        model = Model(Config(config, block_size, *table.shape, dropout), hf).eval()
        if not computes_the_same(model):
            raise ValueError("its logits are not lm_head of the last state, or it reads no mask")
    except Exception as error:  # whatever a folder, or one of the packages, provokes
        raise UserError(f"{folder} holds no model that hacks/huggingface can use: "
                        f"{type(error).__name__} {error}") from error
    return model, enc


def computes_the_same(model):
    """Whether two cached passes after padding give the logits of one call of transformers' own."""
    ids, is_real = torch.arange(8)[None], torch.arange(10)[None] >= 2  # any eight tokens
    hidden, _ = think(model, F.pad(ids, (2, 0)), torch.zeros_like(is_real), is_real, start=6)
    ours, theirs = model.lm_head(hidden), model.hf(ids).logits[:, 3:]
    return torch.allclose(ours, theirs, rtol=0, atol=1e-3 * theirs.abs().max().item())
