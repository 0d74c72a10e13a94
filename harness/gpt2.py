"""Around GPT.from_pretrained: sentences for strangers' files, and rows for our tokens."""
import os

import torch
import torch.nn as nn

from data import gpt2_encoding
from harness.files import is_checkpoint, read_torch
from model import GPT, GPT2_SHA256, GPT2_URL
from tasks.record import UserError


@torch.no_grad()
def load_gpt2(source, **options):
    """(model, Encoding) of what GPT.from_pretrained takes, with rows for our special tokens, and
    options of GPTConfig. UserError, in a sentence, for anything else."""
    fetched = source in GPT2_SHA256 and not os.path.exists(source)  # as from_pretrained does it
    folder = os.path.join(torch.hub.get_dir(), source) if fetched else source
    path = os.path.join(folder, "pytorch_model.bin") if fetched or os.path.isdir(source) else source
    if not (fetched or os.path.exists(path)):
        raise UserError(f"no weights at {path}: name a file, or {', '.join(GPT2_SHA256)}")
    if not fetched and is_checkpoint(read_torch(path)):
        raise UserError(f"{path} is a checkpoint of train.py: name it by --ckpt")
    try:
        model = GPT.from_pretrained(source, **options)
    except Exception as error:  # the network's; missing or misshapen tensors; half a file
        if not os.path.exists(path):
            raise UserError(f"could not download {GPT2_URL.format(source)} ({error}): fetch it "
                            "where there is a network, and give its path instead") from None
        again = ": delete it, to fetch it again" if fetched else ""
        reason = f"it has no matrix {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} holds no whole GPT-2 ({reason}){again}") from error
    enc, old = gpt2_encoding(), model.wte.weight
    if not 50257 <= len(old) <= enc.n_vocab:
        raise UserError(f"{path} has {len(old)} tokens, which are not GPT-2's")
    new = old[enc.encode_single_token("<<")].expand(enc.n_vocab - len(old), -1)  # run.py:145-157
    model.wte = nn.Embedding.from_pretrained(torch.cat([old, new]), freeze=False)
    model.lm_head = nn.Linear(model.config.n_embd, enc.n_vocab, bias=False, device="meta")
    model.lm_head.weight = model.wte.weight  # tied
    model.config.vocab_size = enc.n_vocab
    return model, enc
