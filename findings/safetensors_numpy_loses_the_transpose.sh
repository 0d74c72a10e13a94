#!/usr/bin/env bash
# Guess: safetensors.numpy.save_file writes the values that an array shows, also those of a
# transposed one, or it refuses, as safetensors.torch does.
# Seen: with safetensors 0.8.0 it writes the memory as it lies, under the shape of the view. The
# file of a transposed matrix holds it untransposed, and nothing is said. Up to 0.7.0 the values
# were right. The documentation asks for contiguous arrays, but .T is how GPT-2's Conv1D weights
# become those of a Linear, and in a square matrix nothing shows: shape, sum and norm are as they
# should be. numpy.ascontiguousarray before saving helps.
# Fails if 0.8.0 writes the right values or refuses, or if 0.7.0 does not write the right ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > transpose.py <<'PYTHON'
import sys

import numpy
import safetensors
from safetensors.numpy import load_file, save_file

weights = numpy.arange(9, dtype=numpy.float32).reshape(3, 3)
save_file({"view": weights.T, "copy": numpy.ascontiguousarray(weights.T)}, "weights.safetensors")
saved = load_file("weights.safetensors")
print(f"safetensors {safetensors.__version__}, numpy {numpy.__version__}: transposed "
      f"{weights.T.tolist()}, read back {saved['view'].tolist()}")
assert numpy.array_equal(saved["copy"], weights.T)
right = numpy.array_equal(saved["view"], weights.T)
assert right == (sys.argv[1] == "right"), right
assert right or numpy.array_equal(saved["view"], weights)
PYTHON
for version_and_result in "0.7.0 right" "0.8.0 wrong"; do
    read -r version result <<< "$version_and_result"
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet "safetensors==$version" "numpy==2.2.6"
    "venv-$version/bin/python" transpose.py "$result"
done
