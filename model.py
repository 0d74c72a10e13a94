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

Dims: B rows of a batch, T columns, C = n_embd, V vocabulary, K thoughts.

References: the paper, section 3. OpenAI's GPT-2, github.com/openai/gpt-2, whose parameter names are
kept. The official code, github.com/facebookresearch/coconut: coconut.py computes the same function;
here one torch.where puts a thought into all rows, and generation is batched and cached.
"""
import re
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F

# --------------------------------------------------------------------------------------------------
# GPT-2


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

    def forward(self, x, mask, past, since):
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # each (B, n_head, T, C / n_head)
        q, mask = q[:, :, since:], mask[..., since:, :]  # of the columns whose state is wanted
        dropout = self.dropout if self.training else 0.0
        if past is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            present = [(k, v)]
        else:
            y, present = attend_with_cache(q, k, v, mask, past, dropout)
        y = y.transpose(1, 2).reshape(B, T - since, C)
        return self.c_proj(y), present


def attend_with_cache(q, k, v, mask, past, dropout):
    """Attention of new columns to all, and the grown cache. k, v (B, n_head, T, C / n_head) are of
    all T new columns, q only of those whose state is wanted, the last ones.

    The cache has two parts, so that no thought copies the question: the keys and values of the
    first pass, which stay as they are, and those of all later ones, which `cat` joins: a few."""
    k_first, v_first = past[0]
    if len(past) == 2:  # from the third pass on
        k_later, v_later = past[1]
        k, v = torch.cat([k_later, k], dim=2), torch.cat([v_later, v], dim=2)
    scores = torch.cat([q @ k_first.mT, q @ k.mT], dim=3) * q.size(3) ** -0.5
    p = scores.masked_fill(~mask, -torch.inf).softmax(dim=3)  # (B, n_head, wanted, all columns)
    p_first, p_later = F.dropout(p, dropout).split([k_first.size(2), k.size(2)], dim=3)
    return p_first @ v_first + p_later @ v, [(k_first, v_first), (k, v)]


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

    def forward(self, x, mask, past, since):
        y, present = self.attn(self.ln_1(x), mask, past, since)
        x = x[:, since:] + self.drop(y)
        x = x + self.drop(self.mlp(self.ln_2(x)))
        return x, present


class GPT(nn.Module):
    """GPT-2: embeddings in, hidden states out. `embed` and `lm_head` stand at its two ends."""

    def __init__(self, config):
        super().__init__()
        assert config.n_embd % config.n_head == 0 and config.n_embd % 2 == 0, config
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied, as in GPT-2
        self.init_weights()

    def embed(self, ids):
        """(B, T) token ids -> (B, T, C) embeddings; positions are added in `forward`."""
        return self.wte(ids)

    def forward(self, x, pos=None, mask=None, past=None, since=0):
        """(B, T, C) embeddings -> (B, T - since, C) hidden states after ln_f, and the grown cache.

        pos (B, T) long: a position for each column; left out, they count on from the cache.
        mask (B, 1, T, cached + T) bool: True where a column may look; left out, it is causal.
        past: the cache an earlier call returned: for each layer one or two pairs of keys and values
        (B, n_head, columns, C / n_head), of the first pass and of all since. It is never changed in
        place, so gradients flow through.
        since: the first column whose state is wanted. Of those before it the last layer computes
        only keys and values, which the wanted ones read."""
        T = x.size(1)
        cached = sum(keys.size(2) for keys, _ in past[0]) if past else 0
        if pos is None:
            pos = torch.arange(cached, cached + T, device=x.device)
        if mask is None:
            mask = torch.ones(T, cached + T, dtype=torch.bool, device=x.device).tril(cached)
        x = self.drop(x + self.wpe(pos))
        present = []
        for i, block in enumerate(self.h):
            skipped = since if block is self.h[-1] else 0  # the next layer reads all columns
            x, keys_and_values = block(x, mask, past[i] if past else None, skipped)
            present.append(keys_and_values)
        return self.ln_f(x), present

    @torch.no_grad()
    def init_weights(self):
        """GPT-2's initialisation of the layers, its 0.02 times sqrt(768 / C) at other widths."""
        C, n_layer = self.config.n_embd, self.config.n_layer
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif name.endswith("c_proj.weight"):  # the residual stream sums 2 * n_layer of these
                nn.init.normal_(p, std=0.02 * (768 / C) ** 0.5 / (2 * n_layer) ** 0.5)
            elif name.startswith("h.") and "ln_" not in name:
                nn.init.normal_(p, std=0.02 * (768 / C) ** 0.5)
        self.help_small_models()

    def help_small_models(self):
        """A start from which a small model soon learns to look at earlier tokens. This is neither
        GPT-2's nor Coconut's, and trained weights overwrite it.

        Embeddings of tokens and positions start with norm 1, the positions as sinusoids. Heads 0,
        1, 2 of the first layer start by attending 1, 2, 3 tokens back: a key holds the waves of its
        position p, a query those of p - 1, p - 2, p - 3, so that the two match at that distance."""
        C, n_head = self.config.n_embd, self.config.n_head
        size = C // n_head  # of a head
        nn.init.normal_(self.wte.weight, std=C ** -0.5)
        frequency = 3 / 10000 ** (torch.arange(0, C, 2) / C)  # one for a sine and a cosine
        angle = torch.arange(self.config.block_size)[:, None] * frequency
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (block_size, C)
        self.wpe.weight.copy_(waves * (2 / C) ** 0.5)
        queries, keys, _ = self.h[0].attn.c_attn.weight.view(3, n_head, size, C)
        for head in range(min(3, n_head)):
            keys[head] = 1.5 * torch.eye(size, C)  # reads the fastest waves
            pairs = torch.view_as_complex(keys[head].view(size, -1, 2))
            turn = torch.polar(torch.ones_like(frequency), -(head + 1) * frequency)
            queries[head] = torch.view_as_real(pairs * turn).flatten(1)

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
    def from_pretrained(cls, tensors, n_head=None, dropout=0.0):
        """A GPT with trained weights: the state dict of OpenAI's GPT-2, or of one like it.

        Its sizes are read off the tensors, but for n_head, which is width / 64 in all of OpenAI's.
        For what is no GPT-2 torch's own error is raised; harness.gpt2.load_gpt2, which finds and
        reads the files, turns it into a sentence."""
        tensors = our_names(tensors)
        (vocab_size, n_embd), block_size = tensors["wte.weight"].shape, len(tensors["wpe.weight"])
        n_layer = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
        n_head = n_head or max(1, n_embd // 64)
        model = cls(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd, dropout))
        model.load_state_dict(tensors)
        return model


# --------------------------------------------------------------------------------------------------
# Coconut

def positions_and_mask(real):
    """real (B, T) bool -> pos (B, T) long and mask (B, 1, T, T) bool, for GPT.forward.

    Real columns count 0, 1, 2 .. wherever the padding stands, and never look at it."""
    T = real.size(1)
    pos = (real.long().cumsum(dim=1) - 1).clamp(min=0)
    causal = torch.ones(T, T, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(T, dtype=torch.bool, device=real.device)
    mask = (causal & real[:, None, :]) | itself  # (B, T, T); softmax over nothing would be NaN
    return pos, mask[:, None]


def think(model, ids, thought, real, edit=None, return_past=False, since=0):
    """The feedback loop: hidden states (B, T - since, C) of sequences with thoughts, in all columns
    from `since` on; differentiable.

    ids (B, T) long; thought (B, T) bool: True where the input is the hidden state of the column
    before, whatever the id; real (B, T) bool: False on padding, left or right. Rows may differ in
    all of them. edit: for experiments, a function (k, thoughts) -> thoughts. k counts the columns
    of thoughts from 0, thoughts (B, C) holds that of every row; a row without one ignores it.
    return_past: return the cache too, to go on from. since: see GPT.forward. Raises ValueError for
    a row longer than block_size. Paper section 3; official coconut.py:43-192."""
    longest = int(real.sum(dim=1).max())
    if longest > model.config.block_size:
        raise ValueError(f"{longest} tokens do not fit into block_size {model.config.block_size}")
    assert not thought[:, 0].any(), "a thought needs a column before it"
    pos, mask = positions_and_mask(real)
    x = model.embed(ids)  # (B, T, C)

    # A column that is a thought in some row starts a chunk: its input is the last output of the
    # chunk before. Batches align the first thoughts of all rows, so K thoughts make K + 1 chunks:
    # the question, then a column for each thought; the last runs to the end.
    starts = thought.any(dim=0).nonzero().flatten().tolist()
    hidden, past = [], None
    for start, end in pairwise([0, *starts, ids.size(1)]):
        chunk = x[:, start:end]
        if start > 0:
            value = hidden[-1][:, -1]  # (B, C) the state of the column before
            if edit is not None:
                value = edit(len(hidden) - 1, value)
            is_thought = thought[:, start, None]  # (B, 1) the other rows keep their token
            first = torch.where(is_thought, value, chunk[:, 0])
            chunk = torch.cat([first[:, None], chunk[:, 1:]], dim=1)
        unwanted = min(max(since - start, 0), end - start - 1)  # the last may become a thought
        out, past = model(chunk, pos[:, start:end], mask[:, :, start:end, :end], past, unwanted)
        hidden.append(out)
    hidden = torch.cat(hidden, dim=1)[:, since - ids.size(1):]  # (B, T - since, C)
    return (hidden, past) if return_past else hidden


def first_predicting(targets):
    """The first column whose state predicts a supervised token, for `since`; targets (B, T)."""
    return int((targets >= 0).any(dim=0).nonzero()[0]) - 1


def supervised_loss(model, hidden, targets):
    """Cross-entropy in nats, summed over the supervised tokens.

    hidden (B, n, C): the states of the last n columns, as `think` returns them; targets (B, T)
    long: in each column its own token, or a negative number where nothing is learned. The state of
    a column predicts the token of the next, so the two are shifted by one. The head runs only on
    columns that predict a supervised token: over most of a sequence no logits are ever computed."""
    targets = targets[:, -hidden.size(1):]  # (B, n)
    hidden, targets = hidden[:, :-1], targets[:, 1:]
    supervised = targets >= 0
    logits = model.lm_head(hidden[supervised])  # (supervised tokens, V)
    return F.cross_entropy(logits, targets[supervised], reduction="sum")


@torch.no_grad()
def generate(model, ids, thought, real, max_new_tokens, end_id, edit=None):
    """What the model writes after each prompt, greedily: B lists of new ids, without end_id.

    Latent mode first, by `think`, whose arguments these are; then language mode on the same cache,
    a token at a time in all rows, until each row has written end_id or max_new_tokens, or has
    filled its block. Official coconut.py:200-262, there for one row and without a cache."""
    assert not (model.training and model.config.dropout), "call model.eval() before generating"
    B, T = ids.shape
    block_size = model.config.block_size
    max_new_tokens = min(max_new_tokens, block_size)
    hidden, past = think(model, ids, thought, real, edit, return_past=True)
    last_column = (real * torch.arange(T, device=real.device)).argmax(dim=1)
    hidden = hidden[torch.arange(B, device=ids.device), last_column]  # (B, C)
    pos = real.sum(dim=1)  # (B,) the position of each row's next token
    room = (block_size - pos + 1).clamp(max=max_new_tokens)  # (B,) the last token needs no position

    new = ids.new_full((B, max_new_tokens), end_id)
    alive = torch.arange(B, device=ids.device)  # the rows that are still computed
    for n in range(max_new_tokens):
        token = model.lm_head(hidden).argmax(dim=-1)  # (alive,)
        new[alive, n] = token
        writing = (new[alive, :n + 1] != end_id).all(dim=1) & (n + 1 < room[alive])
        if not writing.any():
            break
        if 2 * writing.sum() <= len(alive):  # dropping rows copies the cache, so wait for half
            alive, token, pos, real = (rows[writing] for rows in (alive, token, pos, real))
            past = [[(k[writing], v[writing]) for k, v in layer] for layer in past]
        real = F.pad(real, (0, 1), value=True)
        x = model.embed(token)[:, None]  # (alive, 1, C)
        column_pos = pos.clamp(max=block_size - 1)[:, None]  # finished rows may go beyond
        hidden, past = model(x, column_pos, real[:, None, None, :], past)
        hidden, pos = hidden[:, -1], pos + 1
    rows = [row[:most] for row, most in zip(new.tolist(), room.tolist())]
    return [row[:row.index(end_id)] if end_id in row else row for row in rows]


# --------------------------------------------------------------------------------------------------
# OpenAI's weights

def our_names(tensors):
    """The tensors of OpenAI's file under our names and in our layout; other wrappers' prefixes, of
    GPT2LMHeadModel, the official Coconut, DDP and torch.compile, are taken off."""
    prefix = re.compile(r"^(module\.|_orig_mod\.|base_causallm\.|transformer\.)*")
    unused = re.compile(r"\.attn\.(masked_)?bias$|^embedding\.weight$")  # masks; wte once more
    tensors = {prefix.sub("", name): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not unused.search(name)}
    conv1d = re.compile(r"c_(attn|proj|fc)\.weight$")  # keeps (in, out), nn.Linear (out, in)
    tensors = {name: tensor.t() if conv1d.search(name) else tensor
               for name, tensor in tensors.items()}
    head = tensors.setdefault("lm_head.weight", tensors["wte.weight"])
    if not torch.equal(head, tensors["wte.weight"]):
        raise ValueError("lm_head.weight is not tied to wte.weight, as it is in GPT-2")
    return tensors
