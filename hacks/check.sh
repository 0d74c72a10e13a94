#!/usr/bin/env bash
# Does each patch still apply, pass its own tests and those of the method, and train? Does
# huggingface/, which is no patch, pass its tests with the packages that it asks for?
# hacks/check.sh [NAME ..]    all of them, or those named, each on a clean copy of the last commit
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$root"

check_patch() {
    cp "$root/hacks/${1}_check.py" tests/test_hack.py &&
    git apply "$root/hacks/$1.patch" &&
    pytest -q tests/test_{hack,model,curriculum,data}.py &&
    $(grep -m 1 '^python train.py' "$root/hacks/$1.md") --epochs_stage_0 0 --n_train 320 --n_valid 50 --n_test 50 \
        --max_steps 20 --out_dir out/run &&
    python sample.py --ckpt out/run/ckpt.pt --index 0 &&
    python -m analysis accuracy out/run --n 4
}

check_folder() {  # in an environment of its own, which also sees the packages of this one, torch above all
    mkdir -p "hacks/$1" &&
    cp "$root/hacks/$1"/*.* "hacks/$1" &&
    cp "$root/hacks/$1/check.py" tests/test_hack.py &&
    python -m venv "$scratch/venv" &&
    python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$scratch/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth" &&
    "$scratch/venv/bin/pip" install --quiet -r "hacks/$1/requirements.txt" &&
    "$scratch/venv/bin/python" -m pytest -q tests/test_hack.py
}

for name in ${*:-$(basename -s .patch hacks/*.patch) huggingface}; do
    tree=$scratch/$name
    mkdir "$tree"
    git archive HEAD | tar -x -C "$tree"
    cd "$tree"
    if [ -d "$root/hacks/$name" ]; then kind=folder; else kind=patch; fi
    if ! "check_$kind" "$name" >"$scratch/log" 2>&1; then
        cat "$scratch/log"
        echo "hacks/$name fails, see above"
        exit 1
    fi
    cd "$root"
    if [ $kind = patch ]; then echo "$name: applies, passes, trains"; else echo "$name: passes"; fi
done
