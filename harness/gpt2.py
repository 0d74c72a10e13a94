"""Around GPT.from_pretrained: sentences for strangers' files, and rows for our tokens."""
import os

import torch
import torch.nn as nn

from data import gpt2_encoding
from harness.files import is_checkpoint, read_torch
from model import GPT, GPT2_SHA256, GPT2_URL
from tasks.record import UserError


def load_gpt2(source, dropout=0.0):
    """(model, Encoding) of what GPT.from_pretrained takes; the model has rows for our special
    tokens. UserError, in a sentence, for anything else."""
    fetched = source in GPT2_SHA256 and not os.path.exists(source)  # as from_pretrained does it
    folder = os.path.join(torch.hub.get_dir(), source) if fetched else source
    path = os.path.join(folder, "pytorch_model.bin") if fetched or os.path.isdir(source) else source
    if not (fetched or os.path.exists(path)):
        raise UserError(f"no weights at {path}: name a file, or {', '.join(GPT2_SHA256)}")
    if not fetched and is_checkpoint(read_torch(path)):
        raise UserError(f"{path} is a checkpoint of train.py: name it by --ckpt")
    try:
        model = GPT.from_pretrained(source, dropout)
    except KeyError as error:
        raise UserError(f"{path} holds no GPT-2: it has no matrix {error.args[0]}") from None
    except Exception as error:  # the network's; missing or misshapen tensors; half a file
        if not os.path.exists(path):
            raise UserError(f"could not download {GPT2_URL.format(source)} ({error}): fetch it "
                            "where there is a network, and give its path instead") from None
        again = ": delete it, to fetch it again" if fetched else ""
        raise UserError(f"{path} holds no whole GPT-2 ({error}){again}") from None
    enc = gpt2_encoding()
    if not 50257 <= model.config.vocab_size <= enc.n_vocab:
        raise UserError(f"{path} has {model.config.vocab_size} tokens, which are not GPT-2's")
    grow_vocab(model, enc.n_vocab, like=enc.encode_single_token("<<"))  # as official run.py:145-157
    return model, enc


@torch.no_grad()
def grow_vocab(model, vocab_size, like):
    """Grow the embedding, and the head tied to it, to vocab_size rows: copies of row `like`."""
    old = model.wte.weight
    new_rows = old[like].expand(vocab_size - len(old), -1)
    model.wte = nn.Embedding.from_pretrained(torch.cat([old, new_rows]), freeze=False)
    model.lm_head = nn.Linear(model.config.n_embd, vocab_size, bias=False, device="meta")
    model.lm_head.weight = model.wte.weight
    model.config.vocab_size = vocab_size
