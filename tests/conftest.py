"""What the tests share: the import path, real data where there is any, and tiny models."""
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's "&" takes from pytest
torch.set_num_threads(1)  # tiny tensors: a second thread would only wait for the first

from model import GPT, GPTConfig  # noqa: E402


@pytest.fixture
def real_data():
    """The folder with files in the official formats that COCONUT_DATA_DIR names."""
    folder = os.environ.get("COCONUT_DATA_DIR")
    if not folder or not os.path.isdir(folder):
        pytest.skip("COCONUT_DATA_DIR names no folder with the official data")
    return Path(folder)


@pytest.fixture
def needs_gpt2_vocabulary():
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR is not set, so GPT-2's vocabulary would be downloaded")


def tiny_gpt(seed=0, vocab_size=50, block_size=64, n_layer=2, n_head=2, n_embd=32):
    """A random model with weights far from zero, so that every part of it matters."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model
