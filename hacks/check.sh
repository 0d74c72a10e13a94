#!/usr/bin/env bash
# Does each patch still apply, pass its own tests and those of the method, and train?
# hacks/check.sh [NAME ..]    all of them, or those named, each on a clean copy of the last commit
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$root"

for name in ${*:-$(basename -s .patch hacks/*.patch)}; do
    tree=$scratch/$name
    mkdir "$tree"
    git archive HEAD | tar -x -C "$tree"
    cp "hacks/${name}_check.py" "$tree/tests/test_hack.py"
    command=$(grep -m 1 '^python train.py' "hacks/$name.md")
    cd "$tree"
    if ! {
        git apply "$root/hacks/$name.patch" &&
        pytest -q tests/test_{hack,model,curriculum,data}.py &&
        $command --epochs_stage_0 0 --n_train 320 --n_valid 50 --n_test 50 --max_steps 20 --out_dir out/run &&
        python sample.py --ckpt out/run/ckpt.pt --index 0 &&
        python -m analysis intervene out/run --n 4
    } >"$scratch/log" 2>&1; then
        cat "$scratch/log"
        echo "hacks/$name.patch fails, see above"
        exit 1
    fi
    cd "$root"
    echo "$name: applies, passes, trains"
done
