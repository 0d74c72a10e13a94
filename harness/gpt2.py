"""OpenAI's GPT-2: where its weights come from, and what they need to know our tokens."""
import json
import os

import torch

from data import gpt2_encoding
from harness.files import is_checkpoint, read_torch
from model import GPT

GPT2_URL = "https://huggingface.co/openai-community/{}/resolve/main/pytorch_model.bin"
GPT2_SHA256 = {"gpt2": "7c5d3f4b8b76583b422fcb9189ad6c89d5d97a094541ce8932dce3ecabde1421",
               "gpt2-medium": None, "gpt2-large": None, "gpt2-xl": None}  # None: not known to us


def load_gpt2(source, dropout=0.0):
    """(model, Encoding) of one of these names (downloaded once, to torch.hub's folder), a file like
    theirs, or a folder with one; the model has rows for our special tokens. ValueError, in a
    sentence, for anything else."""
    if source not in GPT2_SHA256 and not os.path.exists(source):
        raise ValueError(f"no weights at {source}: name a file, or {', '.join(GPT2_SHA256)}")
    try:
        path = weights_file(source)
    except Exception as error:  # of whatever type a network, or half a file, raises
        raise ValueError(f"could not download {GPT2_URL.format(source)} ({error}): fetch it where "
                         "there is a network, and give its path instead") from None
    tensors = read_torch(path)
    if is_checkpoint(tensors):
        raise ValueError(f"{path} is a checkpoint of train.py: name it by --ckpt")
    try:
        model = GPT.from_pretrained(dict(tensors), n_head_beside(path), dropout)
    except KeyError as error:
        raise ValueError(f"{path} holds no GPT-2: it has no matrix {error.args[0]}") from None
    except Exception as error:  # missing, unexpected or misshapen tensors, or none at all
        raise ValueError(f"{path} holds no whole GPT-2: {error}") from None
    enc = gpt2_encoding()
    if not 50257 <= model.config.vocab_size <= enc.n_vocab:
        raise ValueError(f"{path} has {model.config.vocab_size} tokens, which are not GPT-2's")
    model.grow_vocab(enc.n_vocab, like=enc.encode_single_token("<<"))  # as official run.py:145-157
    return model, enc


def weights_file(source):
    """The path of a local file, of a folder's, or of a released one, downloaded on first use."""
    if source not in GPT2_SHA256 or os.path.exists(source):
        return os.path.join(source, "pytorch_model.bin") if os.path.isdir(source) else source
    path = os.path.join(torch.hub.get_dir(), "checkpoints", f"{source}.bin")
    if not os.path.exists(path):
        part = path + ".part"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(GPT2_URL.format(source), part, GPT2_SHA256[source])
        read_torch(part)  # fails if the connection broke
        os.replace(part, path)
    return path


def n_head_beside(path):
    """n_head in the config.json beside a file, if there is one."""
    config_file = os.path.join(os.path.dirname(path), "config.json")
    if os.path.exists(config_file):
        with open(config_file) as file:
            return json.load(file).get("n_head")
