"""
GPT-2, and the feedback loop that lets it reason in continuous thoughts: Coconut, arXiv 2412.06769,
section 3. Official code: coconut.py of github.com/facebookresearch/coconut.

The model takes embeddings and returns hidden states of the same shape, so its last hidden state can
be its next input embedding. That is the whole idea: no word has to be chosen on the way.

    language mode      x[t] = embed(ids[t])             the input is the embedding of a token
    latent mode        x[t] = thought(hidden[t - 1])    the input is the last hidden state
    either way         hidden = GPT(x + positions)      and logits = lm_head(hidden) where needed

A row of a batch reads    question <|bot|> thought thought .. <|eot|> steps that are left, answer
K thoughts take K + 1 forward passes: the first reads the question, each later one a thought, the
last the rest of the row, too. All share one cache, so no column is computed twice.

B rows of a batch, T columns, C = n_embd, V vocabulary. Rows are padded, so a column is one place in
all rows of the batch, while a position counts the real tokens of one row.
"""
import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

GPT2_URL = "https://huggingface.co/openai-community/{}/resolve/main/pytorch_model.bin"
GPT2_SHA256 = {"gpt2": "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421",
               "gpt2-medium": None, "gpt2-large": None, "gpt2-xl": None}  # None: not known to us


@dataclass
class GPTConfig:
    block_size: int = 1024  # most positions in a sequence
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys, values
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x, mask, cache, last):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, n_head, T, C / n_head)
        if cache is not None:  # the keys and values of earlier columns
            k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        y = F.scaled_dot_product_attention(  # (B, n_head, last, C / n_head)
            q[:, :, -last:], k, v, mask[:, :, -last:], self.dropout if self.training else 0.0)
        return self.c_proj(y.transpose(1, 2).reshape(B, last, C)), (k, v)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd), CausalSelfAttention(config)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd), MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, mask, cache, last):
        y, cache = self.attn(self.ln_1(x), mask, cache, last)
        x = x[:, -last:] + self.drop(y)
        return x + self.drop(self.mlp(self.ln_2(x))), cache


class GPT(nn.Module):
    """GPT-2 with open ends: inputs by `embed` or `thought`, hidden states out, for `lm_head`."""
    def __init__(self, config):
        super().__init__()
        self.config, self.drop = config, nn.Dropout(config.dropout)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied, as in GPT-2
        std = 0.02 * (768 / config.n_embd) ** 0.5  # GPT-2's 0.02; in other widths wte alone has it
        for module in self.modules():  # by type: all others keep the start that torch gives them
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.h:  # the residual stream sums up 2 * n_layer of these
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                nn.init.normal_(projection.weight, std=std / (2 * config.n_layer) ** 0.5)
        nn.init.normal_(self.wte.weight, std=0.02)  # last, as lm_head, a Linear, is tied to it

    def embed(self, ids):
        """(B, T) token ids -> (B, T, C) embeddings; positions are added in `forward`."""
        return self.wte(ids)

    def thought(self, hidden):
        """(.., C) hidden states -> (.., C) what is fed back. To change that, change it here."""
        return hidden

    def forward(self, x, pos, mask, cache=None, last=None):
        """(B, T, C) embeddings -> (B, T, C) hidden states after ln_f, and the grown cache.

        pos (B, T) long: the position of each column. mask (B, 1, T, cached + T) bool: True where a
        column may look. cache: what an earlier call returned, keys and values of each layer, both
        (B, n_head, cached, C / n_head); never changed in place, so gradients flow through it.
        last: return only so many states, the rightmost, (B, last, C)."""
        x, grown = self.drop(x + self.wpe(pos)), []
        for block, keys_and_values in zip(self.h, cache or [None] * len(self.h)):
            wanted = last if last and block is self.h[-1] else x.size(1)  # the next layer needs all
            x, keys_and_values = block(x, mask, keys_and_values, wanted)
            grown.append(keys_and_values)
        return self.ln_f(x), grown

    @classmethod
    def from_pretrained(cls, source, **options):
        """A GPT with the weights of gpt2, gpt2-medium, gpt2-large or gpt2-xl, fetched once by
        torch.hub; of a file of that layout; or of the pytorch_model.bin in a folder. options: of
        GPTConfig, as dropout. What is no GPT-2 raises whatever Python or torch has for it."""
        path = Path(source, "pytorch_model.bin") if Path(source).is_dir() else Path(source)
        if source in GPT2_SHA256 and not path.exists():
            path = Path(torch.hub.get_dir(), source, "pytorch_model.bin")
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(GPT2_URL.format(source), path, GPT2_SHA256[source])
        config = path.with_name("config.json")
        n_head = json.loads(config.read_text())["n_head"] if config.exists() else None
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return cls.from_tensors(tensors, n_head, **options)

    @classmethod
    def from_tensors(cls, tensors, n_head=None, **options):
        """The same of {name: tensor}. Without n_head a head has 64 columns, as OpenAI's have."""
        tensors = our_names(tensors)
        (vocab_size, n_embd), block_size = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
        n_layer = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
        n_head = n_head or max(1, n_embd // 64)
        model = cls(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd, **options))
        model.load_state_dict(tensors)
        return model


def our_names(tensors):
    """Tensors of a GPT-2, and of what wraps one, under our names and in nn.Linear's layout."""
    ours = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^(module\.|_orig_mod\.|base_causallm\.|transformer\.)*", "", name)
        conv1d = re.search(r"c_(attn|proj|fc)\.weight$", name)  # keeps (in, out), Linear (out, in)
        if not re.search(r"\.attn\.(masked_)?bias$|^embedding\.weight$", name):
            ours[name] = tensor.t() if conv1d else tensor
    if not torch.equal(ours.setdefault("lm_head.weight", ours["wte.weight"]), ours["wte.weight"]):
        raise ValueError("lm_head.weight is not tied to wte.weight, as it is in GPT-2")
    return ours


def positions_and_mask(is_real):
    """is_real (B, T) bool, False on padding -> pos (B, T) long and mask (B, 1, T, T) bool. Real
    columns count 0, 1, 2 .. wherever the padding stands, and never look at it."""
    ones = torch.ones(is_real.size(1), is_real.size(1), dtype=torch.bool, device=is_real.device)
    itself = ones.triu().tril()  # the diagonal: else padding on the left looks at nothing
    mask = (ones.tril() & is_real[:, None, :]) | itself
    return (is_real.long().cumsum(dim=1) - 1).clamp(min=0), mask[:, None]


def think(model, ids, is_thought, is_real, start, on_thought=None):
    """The feedback loop: hidden (B, T - start + 1, C) of columns start - 1 .. T - 1, and the cache;
    differentiable. Paper section 3; official coconut.py:43-192.
    ids (B, T) long; is_thought (B, T) bool: True where a thought takes the place of the token;
    is_real (B, T) bool: False on padding. start, 1 .. T: columns left of it hold no thought, and
    are read in one pass, for the last state alone. on_thought(k, thought) gets the k-th thought of
    all rows, (B, C), and returns what is fed back. ValueError for more than block_size tokens."""
    T, block_size = ids.size(1), model.config.block_size
    if T > block_size and (longest := int(is_real.sum(dim=1).max())) > block_size:
        raise ValueError(f"{longest} tokens do not fit into block_size {block_size}")
    thoughts = is_thought.any(dim=0).nonzero().flatten().tolist()  # the columns that have any
    assert 1 <= start <= min([*thoughts, T]), (start, thoughts, T)
    (pos, mask), x = positions_and_mask(is_real), model.embed(ids)  # x is (B, T, C)
    pieces, cache = [], None
    for left, right in pairwise(sorted({0, start, *thoughts, T})):
        piece = x[:, left:right]
        if left in thoughts:
            thought = model.thought(pieces[-1][:, -1])  # (B, C), of the state before
            if on_thought is not None:
                thought = on_thought(thoughts.index(left), thought)
            first = torch.where(is_thought[:, left, None], thought, piece[:, 0])
            piece = torch.cat([first[:, None], piece[:, 1:]], dim=1)
        hidden, cache = model(piece, pos[:, left:right], mask[:, :, left:right, :right], cache,
                              last=1 if left == 0 else None)
        pieces.append(hidden)
    return torch.cat(pieces, dim=1), cache


def supervised_loss(model, hidden, targets):
    """Cross-entropy in nats, summed over the supervised tokens. hidden (B, n, C): states of the
    last n columns, as from `think`. targets (B, T) long: the token in each column, or -100 where
    nothing is learned. A state predicts the token one column on."""
    targets = targets[:, targets.size(1) - hidden.size(1) + 1:]  # (B, n - 1)
    supervised = targets != -100
    logits = model.lm_head(hidden[:, :-1][supervised])  # (supervised tokens, V)
    return F.cross_entropy(logits, targets[supervised], reduction="sum")


@torch.no_grad()
def generate(model, ids, is_thought, is_real, max_new_tokens, end_id, temperature=0,
             on_thought=None):
    """What the model writes after each prompt: B lists of new ids, without end_id. Prompts end in
    the last column. Latent mode first, by `think`; then language mode on the same cache, a token at
    a time in all rows, until each has written end_id or max_new_tokens, or has filled its block.
    Above temperature 0 torch's global generator draws tokens. Official coconut.py:200-262."""
    assert is_real[:, -1].all() and not (model.training and model.config.dropout), "eval; pad left"
    start = min([*is_thought.any(dim=0).nonzero().flatten().tolist(), ids.size(1)])
    hidden, cache = think(model, ids, is_thought, is_real, start, on_thought)
    room = model.config.block_size + 1 - is_real.sum(dim=1)  # (B,) a last token needs no position
    new = ids[:, :0]  # (B, tokens so far)
    while new.size(1) < max_new_tokens:
        logits = model.lm_head(hidden[:, -1])  # (B, V)
        token = (torch.multinomial((logits / temperature).softmax(dim=-1), 1) if temperature
                 else logits.argmax(dim=-1, keepdim=True))  # (B, 1)
        new = torch.cat([new, token], dim=1)
        if ((new == end_id).any(dim=1) | (new.size(1) >= room.clamp(max=max_new_tokens))).all():
            break
        pos = is_real.sum(dim=1, keepdim=True).clamp(max=model.config.block_size - 1)
        is_real = F.pad(is_real, (0, 1), value=True)
        hidden, cache = model(model.embed(token), pos, is_real[:, None, None], cache)
    rows = [row[:n] for row, n in zip(new.tolist(), room.tolist())]
    return [row[:row.index(end_id)] if end_id in row else row for row in rows]
