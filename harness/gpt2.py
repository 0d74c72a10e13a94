"""GPT-2's weights in every layout that we know, other files refused in a sentence; our tokens."""
import json
import os
from pathlib import Path

import torch
import torch.nn as nn

from data import gpt2_encoding
from harness.files import is_checkpoint, read_torch
from model import GPT, GPT2_SHA256, GPT2_URL, GPTConfig
from tasks.record import UserError, refuse_pointer

NAMES = ("pytorch_model.bin", "model.safetensors", "pytorch_model.bin.index.json",
         "model.safetensors.index.json")
# Keys of config.json that change the function: what model.py computes, and what equals it.
COMPUTED = {"activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
            "layer_norm_epsilon": (1e-5,), "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
            "tie_word_embeddings": (True,), "model_type": ("gpt2",)}


@torch.no_grad()
def load_gpt2(source, **options):
    """(model, Encoding) of what GPT.from_pretrained takes, of model.safetensors, or of shards with
    an index; with rows for our special tokens, and options of GPTConfig. UserError, in a sentence,
    for anything else."""
    GPT(GPTConfig(1, 1, 1, 1, 2, **options))  # so that a fork's bug is not taken for a bad file
    fetched = source in GPT2_SHA256 and not os.path.exists(source)  # as from_pretrained does it
    path = Path(torch.hub.get_dir(), source, NAMES[0]) if fetched else path_of(source)
    try:
        model = (GPT.from_pretrained(source, **options) if fetched else
                 GPT.from_tensors(read_tensors(path), n_head_of(path), **options))
    except UserError:
        raise
    except Exception as error:  # the network's; missing or misshapen tensors; half a file
        if not path.exists():
            raise UserError(f"could not download {GPT2_URL.format(source)} ({error}): fetch it "
                            "where there is a network, and give its path instead") from None
        again = ": delete it, to fetch it again" if fetched else ""
        reason = f"it has no matrix {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} holds no whole GPT-2 ({reason}){again}") from error
    if model.config.n_embd % model.config.n_head:
        raise UserError(f"{path} has {model.config.n_embd} columns, no multiple of the "
                        f"{model.config.n_head} heads that config.json says")
    enc, old = gpt2_encoding(), model.wte.weight
    if not 50257 <= len(old) <= enc.n_vocab:
        raise UserError(f"{path} has {len(old)} tokens, which are not GPT-2's")
    new = old[enc.encode_single_token("<<")].expand(enc.n_vocab - len(old), -1)  # run.py:145-157
    model.wte = nn.Embedding.from_pretrained(torch.cat([old, new]), freeze=False)
    model.lm_head = nn.Linear(model.config.n_embd, enc.n_vocab, bias=False, device="meta")
    model.lm_head.weight = model.wte.weight  # tied
    model.config.vocab_size = enc.n_vocab
    return model, enc


def is_other_model(source):
    """Whether a folder's config.json names a model that is no GPT-2."""
    try:
        said = json.loads(Path(source, "config.json").read_text("utf-8"))
    except (OSError, ValueError):  # no such file, or no JSON
        return False
    return isinstance(said, dict) and said.get("model_type", "gpt2") != "gpt2"


def adapter():
    """The module by which other models are read and run. UserError without its package."""
    try:
        from hacks.huggingface import adapter
    except ImportError as error:
        raise UserError("models other than GPT-2 are run by a package: pip install -r "
                        f"hacks/huggingface/requirements.txt ({error})") from None
    return adapter


def path_of(source):
    """The file that holds the weights, or the index of those that do, of a file or a folder."""
    if source in GPT2_SHA256:
        print(f"note: {source} is taken from here, not from OpenAI, as there is a file or folder "
              "of that name")
    paths = [Path(source, name) for name in NAMES] if os.path.isdir(source) else [Path(source)]
    for path in paths:
        if path.exists():
            return path
    raise UserError(f"no weights at {' or '.join(map(str, paths))}: name a file, a folder, or "
                    f"{', '.join(GPT2_SHA256)}")


def read_tensors(path):
    """{name: tensor} of a file, or of all files of an index."""
    refuse_pointer(path)
    if path.suffix == ".json":
        shards = sorted({*json.loads(path.read_text("utf-8"))["weight_map"].values()})
        return {name: tensor for shard in shards
                for name, tensor in read_tensors(path.with_name(shard)).items()}
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise UserError(f"{path} is read by a package: pip install safetensors") from None
        return load_file(path)
    saved = read_torch(path)
    if is_checkpoint(saved):
        raise UserError(f"{path} is a checkpoint of train.py: name it by --ckpt")
    if isinstance(saved, dict) and "model_args" in saved:
        raise UserError(f"{path} is a checkpoint of nanoGPT, which computes another function: its "
                        "GELU is the exact one, and tokens from 50,257 on only fill its table")
    return saved


def n_head_of(path):
    """What config.json beside the weights says; UserError if it asks for another function."""
    config = path.with_name("config.json")
    if not config.exists():
        print(f"note: no {config} says n_head, so heads have 64 columns, as OpenAI's have")
        return None
    said = json.loads(config.read_text("utf-8"))
    for name, computed in COMPUTED.items():
        if said.get(name, computed[0]) not in computed:
            raise UserError(f"{config} has {name} {said[name]}, for which there is no code here: "
                            f"model.py computes {computed[0]}")
    n_head = said.get("n_head", said.get("num_attention_heads", 12))  # as transformers reads it
    if type(n_head) is not int or n_head < 1:
        raise UserError(f"{config} has n_head {n_head}, which is no number of heads")
    return n_head
