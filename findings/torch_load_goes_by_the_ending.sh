#!/usr/bin/env bash
# Guess: torch.load looks into a file to see what it is, so it reads back what torch.save wrote, under
# any name; and it never reads safetensors.
# Seen: with torch 2.13.0 a path that ends in .safetensors is handed to the package safetensors unread.
# So torch.save and torch.load of one such path fail ("header too large"; without the package: to
# install it), while the same bytes load under another name or from an open file. A true safetensors
# file loads by its path, but not from an open file, under another name, or with a map_location that is
# a function or a dict, as code for checkpoints often has it.
# Fails if any of these six outcomes changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6" "safetensors==0.8.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import shutil

import safetensors.torch
import torch

weights = {"a": torch.arange(3.0)}
torch.save(weights, "saved.safetensors")
shutil.copy("saved.safetensors", "saved.bin")
safetensors.torch.save_file(weights, "true.safetensors")
shutil.copy("true.safetensors", "true.bin")


def outcome(what, source, **options):
    try:
        found = "loads" if torch.equal(torch.load(source, **options)["a"], weights["a"]) else "differs"
    except Exception as error:
        found = type(error).__name__
    print(f"{what:58}{found}")
    return found


print(f"torch {torch.__version__}, safetensors {safetensors.__version__}")
seen = [
    outcome("torch.save's file, named .safetensors, by its path", "saved.safetensors"),
    outcome("torch.save's file, named .bin, by its path", "saved.bin"),
    outcome("torch.save's file, named .safetensors, opened", open("saved.safetensors", "rb")),
    outcome("a safetensors file by its path", "true.safetensors"),
    outcome("a safetensors file named .bin by its path", "true.bin"),
    outcome("a safetensors file, map_location a function", "true.safetensors",
            map_location=lambda storage, _: storage)]
assert seen == ["SafetensorError", "loads", "loads", "loads", "UnpicklingError", "RuntimeError"], seen
PYTHON
