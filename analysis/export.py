"""A run's model as a folder that transformers, and whatever reads its format, can load."""
import json
import os

import tiktoken
import torch

from analysis.runs import in_folder
from data import END, end_of
from harness.start import load_run
from model import GPT
from tasks.record import UserError, write_whole


def export(run, folder):
    """Write a run's model as transformers has it: GPT2LMHeadModel.from_pretrained(FOLDER).

    The weights are in model.safetensors, or without the package safetensors in pytorch_model.bin.
    Beside them is the tokenizer, with our special tokens, for AutoTokenizer.from_pretrained."""
    ckpt, model, enc = load_run(in_folder(run, "ckpt.pt"))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror})") from None
    if isinstance(model, GPT):
        write_json(folder, "config.json", gpt2_config(model.config, end_of(enc)))
        write_tensors(folder, gpt2_tensors(ckpt["model"]))
    else:  # it came from there
        model.hf.save_pretrained(folder)
    ours = isinstance(enc, tiktoken.Encoding)
    write_json(folder, "tokenizer.json", tokenizer_of(enc) if ours else json.loads(
        enc.state["tokenizer"]))
    end = END if ours else enc.decode([end_of(enc)])
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end,
        "model_max_length": model.config.block_size, "clean_up_tokenization_spaces": False})
    print(f"wrote {', '.join(sorted(os.listdir(folder)))} to {folder}")


def gpt2_config(config, end):
    """transformers' config of a GPTConfig; end: the id of the end token."""
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "dtype": "float32",
            "vocab_size": config.vocab_size, "n_positions": config.block_size,
            "n_embd": config.n_embd, "n_layer": config.n_layer, "n_head": config.n_head,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            "resid_pdrop": config.dropout, "attn_pdrop": config.dropout,
            "embd_pdrop": 0.0, "bos_token_id": end, "eos_token_id": end}


def gpt2_tensors(ours):
    """{name: tensor} as transformers has them: it keeps matrices of layers as (in, out), and ties
    lm_head itself."""
    tensors = {}
    for name, tensor in ours.items():
        if name != "lm_head.weight":
            matrix = name.startswith("h.") and tensor.ndim == 2
            tensors[f"transformer.{name}"] = (tensor.t() if matrix else tensor).float().contiguous()
    return tensors


def write_tensors(folder, tensors):
    try:
        from safetensors.torch import save
    except ImportError:
        write_whole(os.path.join(folder, "pytorch_model.bin"), "wb",
                    lambda file: torch.save(tensors, file))
        return
    write_whole(os.path.join(folder, "model.safetensors"), "wb",
                lambda file: file.write(save(tensors, {"format": "pt"})))


def write_json(folder, name, value):
    write_whole(os.path.join(folder, name), "w", lambda file: json.dump(value, file, indent=1))


def tokenizer_of(enc):
    """The tokenizer.json of a tiktoken.Encoding. tiktoken joins two neighbours whenever the result
    is a token, the lowest rank first; so a merge is listed for every split of a token in two."""
    letters = letters_of_bytes()

    def spelled(token):
        return "".join(letters[byte] for byte in token)

    ranks = enc._mergeable_ranks
    merges = [[spelled(token[:i]), spelled(token[i:])] for token in sorted(ranks, key=ranks.get)
              for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
    special = [{"id": i, "content": name, "special": True, "normalized": False,
                "single_word": False, "lstrip": False, "rstrip": False}
               for name, i in sorted(enc._special_tokens.items(), key=lambda item: item[1])]
    of_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": enc._pat_str}, "behavior": "Isolated",
           "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": None, "post_processor": None, "decoder": of_bytes,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, of_bytes]},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "byte_fallback": False, "ignore_merges": True,
                      "vocab": {spelled(token): rank for token, rank in ranks.items()},
                      "merges": merges}}


def letters_of_bytes():
    """For each of the 256 bytes the letter that GPT-2's files have for it: itself, if it can be
    printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {**{byte: chr(byte) for byte in printed},
            **{byte: chr(256 + i) for i, byte in enumerate(others)}}
