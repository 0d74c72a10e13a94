"""Several processes train as one does. They are started by torchrun, as a person starts them."""
import json
import os
import subprocess
import sys

import pytest
import torch

from harness import ranks
import train as training
from conftest import ROOT
from harness.start import pick_device

# A batch of nine is shared unevenly, and the last batch of an epoch has one problem for two ranks.
OPTIONS = ("--task prontoqa --hops 2 --device cpu --n_layer 2 --n_head 2 --n_embd 32 --n_train 46 "
           "--n_valid 7 --n_test 6 --batch_size 9 --micro_batch 3 --epochs 4 --epochs_stage_0 1 "
           "--epochs_per_stage 1 --max_new_tokens 8 --optimizer muon --learning_rate 1e-3").split()


def torchrun(ranks, *args, **env):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1",
         f"--nproc_per_node={ranks}", *args], cwd=ROOT, text=True, capture_output=True,
        timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", **env})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoint and metrics of one process and of two, after 20 steps and four stages."""
    folder, found = tmp_path_factory.mktemp("parallel"), []
    training.main([*OPTIONS, "--out_dir", str(folder / "one")])
    done = torchrun(2, "train.py", *OPTIONS, "--out_dir", str(folder / "two"))
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        found.append((torch.load(folder / name / "ckpt.pt"), list(map(json.loads, lines))))
    return found, done


def test_two_processes_reach_other_weights_than_one(runs):
    (one, _), (two, _) = runs[0]
    assert one["run"]["step"] == two["run"]["step"] == 24 and one["run"]["stage"] == 3
    for name, tensor in one["model"].items():
        other = two["model"][name]
        if name.endswith("c_attn.bias"):  # a key's bias adds the same to all scores of a query, so
            queries, _, values = tensor.chunk(3)  # it changes nothing, and its gradient is rounding
            tensor, other = torch.cat([queries, values]), torch.cat(other.chunk(3)[::2])
        torch.testing.assert_close(other, tensor, atol=1e-5, rtol=0)


def test_two_processes_report_other_numbers_than_one(runs):
    (_, one), (_, two) = runs[0]
    assert (one[0]["ranks"], two[0]["ranks"]) == (1, 2)
    for a, b in zip(one[1:], two[1:], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "val_seconds", "test_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=2e-5), name


def test_more_than_one_process_speaks(runs):
    assert runs[1].stdout.count("test accuracy") == 1


def test_a_rank_that_dies_leaves_the_others_waiting(tmp_path):
    """The run ends, soon, with a message and an exit code; here rank 1 dies at its fifth step."""
    script = tmp_path / "dies.py"
    script.write_text(f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import train
count = 0
def after_step(keeper):
    global count
    count += 1
    if count == 5 and os.environ["RANK"] == "1":
        os._exit(3)
    after(keeper)
after, train.Keeper.after_step = train.Keeper.after_step, after_step
train.main(sys.argv[1:])
""")
    done = torchrun(2, str(script), *OPTIONS, "--out_dir", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "FAILED" in done.stderr and "exitcode  : 3" in done.stderr


def test_all_ranks_of_a_machine_take_its_first_gpu(monkeypatch):
    monkeypatch.setattr("harness.start.RANKS", 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(size))  # as if there
    assert pick_device("cuda") == torch.device("cuda:3")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("number", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_problem_is_lost_or_trained_on_by_two_ranks(monkeypatch, number, size):
    batch, shares = list(range(7)), []
    monkeypatch.setattr(ranks, "RANKS", number)
    for rank in range(number):
        monkeypatch.setattr(ranks, "RANK", rank)
        shares.append(ranks.micro_batches(batch, size))
    assert sorted(item for lists in shares for part in lists for item in part) == batch
    assert all(0 < len(part) <= size for lists in shares for part in lists)
