#!/usr/bin/env bash
# Guess: from_pretrained(.., gguf_file=..) unpacks a Llama into an ordinary float32 model, so
# save_pretrained writes it, and one has safetensors.
# Seen: with transformers 5.24.0 all weights are float32 in ordinary Linear modules, and no warning
# says otherwise; but save_pretrained refuses: "The model is quantized with gguf and is not
# serializable". The same for this file, in which no tensor is quantized at all. model.dequantize()
# raises NotImplementedError. With quantization_config=GgufConfig(dequantize=True) the weights are
# the same, and are saved.
# Cause: since GGUF files have a quantizer of their own, it stays with every model that is loaded
# without that flag, also where the architecture is one of those that are always unpacked (all but
# three).
# Fails if the model is saved without the flag, if not with it, or if the weights differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.2.6" "transformers==5.24.0" \
    "gguf==0.19.0" "accelerate==1.15.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gguf
import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, GgufConfig

C, V, F = 32, 256, 64
rng = numpy.random.default_rng(0)
file = gguf.GGUFWriter("tiny.gguf", "llama")
file.add_block_count(1)
file.add_context_length(64)
file.add_embedding_length(C)
file.add_feed_forward_length(F)
file.add_head_count(2)
file.add_head_count_kv(2)
file.add_layer_norm_rms_eps(1e-5)
file.add_rope_dimension_count(C // 2)
file.add_vocab_size(V)
shapes = {"token_embd": (V, C), "output_norm": (C,), "output": (V, C), "blk.0.attn_norm": (C,),
          "blk.0.ffn_norm": (C,), "blk.0.ffn_gate": (F, C), "blk.0.ffn_up": (F, C),
          "blk.0.ffn_down": (C, F), "blk.0.attn_output": (C, C), "blk.0.attn_q": (C, C),
          "blk.0.attn_k": (C, C), "blk.0.attn_v": (C, C)}
for name, shape in shapes.items():
    file.add_tensor(f"{name}.weight", rng.standard_normal(shape, dtype=numpy.float32))
file.write_header_to_file()
file.write_kv_data_to_file()
file.write_tensors_to_file()
file.close()

print(f"transformers {transformers.__version__}, gguf 0.19.0")
plain = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
kinds = {type(m).__name__ for m in plain.modules() if hasattr(m, "weight")}
print(f"without the flag: {sorted(kinds)}")
assert "Linear" in kinds and {p.dtype for p in plain.parameters()} == {torch.float32}
for what, act in (("save_pretrained", lambda: plain.save_pretrained("plain")),
                  ("dequantize", plain.dequantize)):
    try:
        act()
        raise SystemExit(f"{what} works without the flag")
    except (ValueError, NotImplementedError) as error:
        print(f"{what}: {type(error).__name__} {error}")
flagged = AutoModelForCausalLM.from_pretrained(
    ".", gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True))
ours = flagged.state_dict()
assert all(torch.equal(tensor, ours[name]) for name, tensor in plain.state_dict().items())
flagged.save_pretrained("flagged")
again = AutoModelForCausalLM.from_pretrained("flagged").state_dict()
assert all(torch.equal(tensor, again[name]) for name, tensor in ours.items())
print("with dequantize=True: the same weights, saved and read again")
PYTHON
