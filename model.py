"""
GPT-2, and the feedback loop that lets it reason in continuous thoughts ("Coconut", 2412.06769).

The model takes embeddings and returns hidden states of the same shape, so its last hidden state can
be its next input embedding. That is the whole idea: no word has to be chosen on the way.

    language mode      x[t] = embed(ids[t])          the input is the embedding of a token
    latent mode        x[t] = hidden[t - 1]          the input is a thought, the last hidden state
    either way         hidden = GPT(x + positions)   and logits = lm_head(hidden) where needed

A row of a batch reads    question <|bot|> thought thought .. <|eot|> steps that are left, answer
The first thought is the hidden state at <|bot|>, taken after the final layer norm; like any input
it gets a position embedding. K thoughts take K + 1 forward passes, which share one cache of keys
and values: one over the question, then one for each thought; the last runs on to the row's end.

Dims: B rows of a batch, T columns, C n_embd, V vocabulary, K thoughts.

References: the paper, section 3. OpenAI's GPT-2, github.com/openai/gpt-2, whose parameter names are
kept. The official code, github.com/facebookresearch/coconut: coconut.py computes the same function;
here one mask replaces its lists of vectors, and generation is batched and cached.
"""
import json
import os
import re
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from files import download, read_torch


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

    def forward(self, x, mask, past):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # each (B, n_head, T, head)
        dropout = self.dropout if self.training else 0.0
        if past is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            present = [(k, v)]
        else:  # columns before these: the first pass's, many, are read in place; the few since grow
            (k0, v0), *since = past
            if since:
                k, v = torch.cat([since[0][0], k], dim=2), torch.cat([since[0][1], v], dim=2)
            scores = torch.cat([q @ k0.mT, q @ k.mT], dim=3) * q.size(3) ** -0.5
            p = scores.masked_fill(~mask, -torch.inf).softmax(dim=3)  # (B, n_head, T, all columns)
            p0, p = F.dropout(p, dropout).split([k0.size(2), k.size(2)], dim=3)
            y = p0 @ v0 + p @ v
            present = [(k0, v0), (k, v)]
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.c_proj(y), present


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
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, mask, past):
        y, present = self.attn(self.ln_1(x), mask, past)
        x = x + self.drop(y)
        x = x + self.drop(self.mlp(self.ln_2(x)))
        return x, present


class GPT(nn.Module):
    """GPT-2: embeddings in, hidden states out. `embed` and `lm_head` stand at its two ends."""

    def __init__(self, config):
        super().__init__()
        assert config.n_embd % config.n_head == config.n_embd % 2 == 0, config
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied, as in GPT-2
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        """GPT-2's initialisation, its 0.02 times sqrt(768 / C) at other widths, but for what lets
        small models learn soon to look things up: a token and a position both start with norm 1,
        the positions as sinusoids, and the first heads look one, two and three tokens back."""
        C, n_layer = self.config.n_embd, self.config.n_layer
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif name.endswith("c_proj.weight"):  # what layers add up to in the residual stream
                nn.init.normal_(p, std=0.02 * (768 / C) ** 0.5 / (2 * n_layer) ** 0.5)
            elif name.startswith("h.") and "ln_" not in name:
                nn.init.normal_(p, std=0.02 * (768 / C) ** 0.5)
        nn.init.normal_(self.wte.weight, std=C ** -0.5)
        frequency = 3 / 10000 ** (torch.arange(0, C, 2) / C)  # of a sine and a cosine each
        angle = torch.arange(self.config.block_size)[:, None] * frequency
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        self.wpe.weight.copy_(waves * (2 / C) ** 0.5)
        self.look_back(frequency)

    def look_back(self, frequency):
        """Let head 0, 1, 2 of the first layer start by attending 1, 2, 3 tokens back: a key is the
        waves of its position, a query those of its own turned back by so many positions."""
        n_head, size = self.config.n_head, self.config.n_embd // self.config.n_head
        queries, keys, _ = self.h[0].attn.c_attn.weight.view(3, n_head, size, -1)
        for head in range(min(3, n_head)):
            keys[head] = 1.5 * torch.eye(size, self.config.n_embd)  # the fastest waves
            waves = torch.view_as_complex(keys[head].view(size, -1, 2))
            turn = torch.polar(torch.ones_like(frequency), -(head + 1) * frequency)
            queries[head] = torch.view_as_real(waves * turn).flatten(1)

    def embed(self, ids):
        """(B, T) token ids -> (B, T, C) embeddings; positions are added in `forward`."""
        return self.wte(ids)

    def forward(self, x, pos=None, mask=None, past=None):
        """(B, T, C) embeddings -> (B, T, C) hidden states after ln_f, and the grown cache.

        pos (B, T) long: a position for each column; left out, they count on from the cache.
        mask (B, 1, T, cached + T) bool: True where a column may look; left out, it is causal.
        past: the cache an earlier call returned: for each layer one or two pairs of keys and values
        (B, n_head, columns, C / n_head), of the first pass and of all since. It is never changed in
        place, so gradients flow through.
        """
        B, T, C = x.shape
        cached = sum(keys.size(2) for keys, _ in past[0]) if past else 0
        if pos is None:
            pos = torch.arange(cached, cached + T, device=x.device)
        if mask is None:
            mask = torch.ones(T, cached + T, dtype=torch.bool, device=x.device).tril(cached)
        x = self.drop(x + self.wpe(pos))
        present = []
        for i, block in enumerate(self.h):
            x, keys_values = block(x, mask, past[i] if past else None)
            present.append(keys_values)
        return self.ln_f(x), present

    @torch.no_grad()
    def grow_vocab(self, vocab_size, like):
        """Grow the embedding, and the head tied to it, to vocab_size rows: copies of row `like`."""
        assert vocab_size >= self.config.vocab_size, (vocab_size, self.config.vocab_size)
        old = self.wte.weight
        new_rows = old[like].expand(vocab_size - len(old), -1)
        self.wte = nn.Embedding.from_pretrained(torch.cat([old, new_rows]), freeze=False)
        self.lm_head = nn.Linear(self.config.n_embd, vocab_size, bias=False, device="meta")
        self.lm_head.weight = self.wte.weight
        self.config.vocab_size = vocab_size

    @classmethod
    def from_pretrained(cls, name_or_path, n_head=None, dropout=0.0):
        """A GPT with trained weights, its sizes read off the tensors.

        Takes `gpt2`, `gpt2-medium`, `gpt2-large` or `gpt2-xl` (downloaded once, to torch.hub's
        folder), a file like their `pytorch_model.bin`, a folder with one, or a state dict; names
        with the prefix of GPT2LMHeadModel or of the official Coconut will do. n_head is the one
        size that no tensor shows: it is taken from a config.json beside the file, or else there are
        64 dimensions a head, as in all four. Raises ValueError for anything else.
        """
        tensors, config = read_gpt2(name_or_path, n_head)
        config.dropout = dropout
        model = cls(config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:  # missing, unexpected or misshapen tensors
            raise ValueError(f"this is not a whole GPT-2: {error}") from None
        return model


# --------------------------------------------------------------------------------------------------
# Coconut

def positions_and_mask(real):
    """real (B, T) bool -> pos (B, T) long and mask (B, 1, T, T) bool, for GPT.forward.

    Real columns count 0, 1, 2 .. wherever the padding stands, and never look at it.
    """
    T = real.size(1)
    pos = (real.long().cumsum(dim=1) - 1).clamp(min=0)
    causal = torch.ones(T, T, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(T, dtype=torch.bool, device=real.device)
    mask = (causal & real[:, None, :]) | itself  # (B, T, T); itself, or padding would see nothing
    return pos, mask[:, None]


def think(model, ids, thought, real, edit=None, return_past=False):
    """The feedback loop: hidden states (B, T, C) of sequences with thoughts; differentiable.

    ids (B, T) long; thought (B, T) bool: True where the input is the hidden state of the column
    before, whatever the id; real (B, T) bool: False on padding, left or right. Rows may differ in
    all of them. edit: to experiment, a function (k, thoughts) of the number of a thought, from 0 at
    the batch's first, and its value (B, C) in all rows; what it returns takes their place.
    return_past: return the cache too, to go on from. Raises ValueError for a row longer than
    block_size. Paper section 3; official coconut.py:43-192.
    """
    longest = int(real.sum(dim=1).max())
    if longest > model.config.block_size:
        raise ValueError(f"{longest} tokens do not fit into block_size {model.config.block_size}")
    assert not thought[:, 0].any(), "a thought needs a column before it"
    pos, mask = positions_and_mask(real)
    x = model.embed(ids)  # (B, T, C)

    # A pass ends before each column that is a thought in some row: its input is not known earlier.
    # Batches align all rows at their first thought, which makes these K columns.
    starts = thought.any(dim=0).nonzero().flatten().tolist()
    hidden, past = [], None
    for k, (start, end) in enumerate(zip([0, *starts], [*starts, ids.size(1)]), start=-1):
        chunk = x[:, start:end]
        if past is not None:
            value = hidden[-1][:, -1] if edit is None else edit(k, hidden[-1][:, -1])  # (B, C)
            is_thought = thought[:, start, None]  # (B, 1): the other rows keep their token
            first = torch.where(is_thought, value, chunk[:, 0])
            chunk = torch.cat([first[:, None], chunk[:, 1:]], dim=1)
        out, past = model(chunk, pos[:, start:end], mask[:, :, start:end, :end], past)
        hidden.append(out)
    hidden = torch.cat(hidden, dim=1)  # (B, T, C)
    return (hidden, past) if return_past else hidden


@torch.no_grad()
def generate(model, ids, thought, real, max_new_tokens, end_id, edit=None):
    """What the model writes after each prompt, greedily: B lists of new ids, without end_id.

    Latent mode first, by `think`, whose arguments these are; then language mode on the same cache,
    a token at a time in all rows, until each row has written end_id or max_new_tokens, or has
    filled its block. Official coconut.py:200-262, there for one row and without a cache.
    """
    assert not (model.training and model.config.dropout), "call model.eval() before generating"
    B, T = ids.shape
    hidden, past = think(model, ids, thought, real, edit, return_past=True)
    last_column = (real * torch.arange(T, device=real.device)).argmax(dim=1)
    hidden = hidden[torch.arange(B, device=ids.device), last_column]  # (B, C)
    pos = real.sum(dim=1)  # (B,) the position of each row's next token
    last_pos = model.config.block_size - 1
    room = (last_pos + 2 - pos).clamp(max=max_new_tokens)  # (B,) the last one needs no position

    new = ids.new_full((B, max_new_tokens), end_id)
    alive = torch.arange(B, device=ids.device)  # the rows that are still computed
    for n in range(max_new_tokens):
        token = model.lm_head(hidden).argmax(dim=-1)  # (alive,)
        new[alive, n] = token
        writing = (new[alive] != end_id)[:, :n + 1].all(dim=1) & (n + 1 < room[alive])
        if not writing.any():
            break
        if 2 * writing.sum() <= len(alive):  # the others leave; not one by one, as it takes a copy
            alive, token, pos, real = (rows[writing] for rows in (alive, token, pos, real))
            past = [[(k[writing], v[writing]) for k, v in layer] for layer in past]
        real = F.pad(real, (0, 1), value=True)
        x = model.embed(token)[:, None]  # (alive, 1, C)
        hidden, past = model(x, pos.clamp(max=last_pos)[:, None], real[:, None, None, :], past)
        hidden, pos = hidden[:, -1], pos + 1
    rows = [row[:most] for row, most in zip(new.tolist(), room.tolist())]
    return [row[:row.index(end_id)] if end_id in row else row for row in rows]


# --------------------------------------------------------------------------------------------------
# OpenAI's weights

GPT2_URL = "https://huggingface.co/openai-community/{}/resolve/main/pytorch_model.bin"
GPT2_SHA256 = {"gpt2": "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421",
               "gpt2-medium": None, "gpt2-large": None, "gpt2-xl": None}  # None: not known to us


def read_gpt2(source, n_head=None):
    """(tensors under our names, GPTConfig) of what GPT.from_pretrained takes."""
    if isinstance(source, dict):
        tensors, source = source, "the state dict"
    else:
        path = locate_gpt2(source)
        tensors, config_file = read_torch(path), os.path.join(os.path.dirname(path), "config.json")
        if n_head is None and os.path.exists(config_file):
            with open(config_file) as file:
                n_head = json.load(file).get("n_head")
        if not isinstance(tensors, dict):
            raise ValueError(f"{source} holds no GPT-2 but a {type(tensors).__name__}")
    # Strip what wrappers prepend: GPT2LMHeadModel, the official Coconut, DDP, torch.compile. Leave
    # out the causal masks that were saved as `attn.bias`, and Coconut's second name for `wte`.
    prefix = re.compile(r"^(module\.|_orig_mod\.|base_causallm\.|transformer\.)*")
    unused = re.compile(r"\.attn\.(masked_)?bias$|^embedding\.weight$")
    tensors = {prefix.sub("", str(name)): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not unused.search(name)}
    for name in ("wte.weight", "wpe.weight"):
        if not torch.is_tensor(tensors.get(name)) or tensors[name].dim() != 2:
            raise ValueError(f"{source} holds no GPT-2: it has no matrix {name}")
    for name, tensor in tensors.items():
        if re.search(r"c_(attn|proj|fc)\.weight$", name) and tensor.dim() == 2:
            tensors[name] = tensor.t()  # OpenAI's Conv1D keeps (in, out), nn.Linear (out, in)
    head = tensors.setdefault("lm_head.weight", tensors["wte.weight"])
    if not torch.equal(head, tensors["wte.weight"]):
        raise ValueError(f"{source} is no GPT-2: its lm_head.weight is not tied to wte.weight")
    (vocab_size, n_embd), block_size = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
    n_layer = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    n_head = n_head or max(1, n_embd // 64)
    if n_embd % n_head:
        raise ValueError(f"{source}: its width {n_embd} cannot be divided among {n_head} heads")
    return tensors, GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd)


def locate_gpt2(name_or_path):
    """The path of a local file or folder's file, or of a released one, fetched on first use."""
    if os.path.isdir(name_or_path):
        name_or_path = os.path.join(name_or_path, "pytorch_model.bin")
    if os.path.exists(name_or_path):
        return name_or_path
    if name_or_path not in GPT2_SHA256:
        raise ValueError(f"no weights at {name_or_path}: name a file, or {', '.join(GPT2_SHA256)}")
    path = os.path.join(torch.hub.get_dir(), "checkpoints", f"{name_or_path}.bin")
    if not os.path.exists(path):
        url = GPT2_URL.format(name_or_path)
        try:
            download(url, path, GPT2_SHA256[name_or_path])
        except OSError as error:
            raise ValueError(f"could not download {url} ({error}): fetch it where there is a "
                             "network, and give the file's path instead of the name") from None
    return path
