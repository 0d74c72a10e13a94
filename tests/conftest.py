"""What the tests share: tiny models, the definition of the loop, padded rows, real data."""
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
torch.set_num_threads(1)  # tiny tensors: a second thread would only wait for the first
from model import GPT, GPTConfig  # noqa: E402


@pytest.fixture
def real_data():
    folder = Path(os.environ.get("COCONUT_DATA_DIR", "absent"))
    if not folder.is_dir():
        pytest.skip("COCONUT_DATA_DIR names no folder with the official data")
    return folder


@pytest.fixture
def needs_gpt2_vocabulary():
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR is not set, so GPT-2's vocabulary would be downloaded")


def tiny_gpt(seed=0, vocab_size=50, block_size=64, n_layer=2, n_head=2, n_embd=32):
    """A random model with weights far from zero, so that every part of it matters."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd)).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


def full_pass(model, x):
    """Hidden states (B, T, C) of embeddings (B, T, C): one forward pass, no cache, no padding."""
    T = x.size(1)
    return model(x, torch.arange(T)[None], torch.ones(1, 1, T, T, dtype=torch.bool).tril())[0]


def slow_think(model, ids, columns):
    """The loop by its definition: states (T, C) of ids with thoughts in these columns."""
    x = model.embed(torch.tensor([ids]))
    for column in sorted(columns):
        thought = model.thought(full_pass(model, x)[:, column - 1])
        x = torch.cat([x[:, :column], thought[:, None], x[:, column + 1:]], dim=1)
    return full_pass(model, x)[0]


def random_rows(ks):
    """[(ids, thought columns), ..]: a question and a rest of random lengths, k thoughts between."""
    generator, rows = torch.Generator().manual_seed(0), []
    for k in ks:
        question, rest = torch.randint(2, 12, (2,), generator=generator).tolist()
        ids = torch.randint(1, 50, (question + k + rest,), generator=generator).tolist()
        rows.append((ids, list(range(question, question + k))))
    return rows


def pad(rows, n_left=None):
    """[(ids, thought columns), ..] -> ids, is_thought, is_real (B, T); n_left pads before a row."""
    n_left = n_left or [0] * len(rows)
    B, T = len(rows), max(left + len(ids) for left, (ids, _) in zip(n_left, rows))
    ids, is_thought, is_real = torch.zeros(3, B, T, dtype=torch.long)
    for b, (left, (row, columns)) in enumerate(zip(n_left, rows)):
        ids[b, left:left + len(row)] = torch.tensor(row)
        is_real[b, left:left + len(row)] = True
        is_thought[b, [left + column for column in columns]] = True
    return ids, is_thought.bool(), is_real.bool()


def aligned(rows):
    """The pads that put all first thoughts into one column."""
    first = max((columns[0] for _, columns in rows if columns), default=0)
    return [first - columns[0] if columns else 0 for _, columns in rows]


def late_start(is_thought):
    """The column of the first thought, or the middle of rows without thoughts."""
    return int(is_thought.any(dim=0).long().argmax()) or is_thought.size(1) // 2
