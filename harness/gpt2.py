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
    path = source if not os.path.isdir(source) else os.path.join(source, "pytorch_model.bin")
    if source in GPT2_SHA256:  # where from_pretrained keeps it
        path = os.path.join(torch.hub.get_dir(), "checkpoints", f"{source}.bin")
    elif not os.path.exists(path):
        raise UserError(f"no weights at {path}: name a file, or {', '.join(GPT2_SHA256)}")
    elif is_checkpoint(read_torch(path)):
        raise UserError(f"{path} is a checkpoint of train.py: name it by --ckpt")
    try:
        model = GPT.from_pretrained(source, dropout)
    except KeyError as error:
        raise UserError(f"{path} holds no GPT-2: it has no matrix {error.args[0]}") from None
    except OSError as error:  # the network's
        raise UserError(f"could not download {GPT2_URL.format(source)} ({error}): fetch it where "
                        "there is a network, and give its path instead") from None
    except Exception as error:  # missing, unexpected or misshapen tensors, or half a file
        kept = source in GPT2_SHA256 and os.path.exists(path)
        again = ": delete it, to fetch it again" if kept else ""
        raise UserError(f"{path} holds no whole GPT-2 ({error}){again}") from None
    enc = gpt2_encoding()
    if model.config.vocab_size not in (50257, 50260, enc.n_vocab):  # 50260: an official Coconut's
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
