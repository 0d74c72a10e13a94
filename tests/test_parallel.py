"""Several processes train as one does: ranks that torchrun's launcher forks from this process."""
import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import train as training
from conftest import ROOT
from harness import ranks
from harness.start import pick_device

# A batch of nine is shared unevenly, and the last batch of an epoch has one problem for two ranks.
OPTIONS = ("--task prontoqa --hops 2 --device cpu --n_layer 2 --n_head 2 --n_embd 32 --n_train 19 "
           "--n_valid 7 --n_test 6 --batch_size 9 --micro_batch 3 --epochs 4 --epochs_stage_0 1 "
           "--epochs_per_stage 1 --max_new_tokens 4 --optimizer muon --learning_rate 1e-3").split()


def on_two_ranks(function, *args):
    """{rank: what function(*args) returns there}. ChildFailedError if a rank fails."""
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
                          rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", run_id="tests",
                          start_method="fork", max_restarts=0, monitor_interval=0.1,
                          signals_to_handle="SIGQUIT")  # other tests send the usual ones
    return elastic_launch(config, function)(*args)


def imported_anew(name):
    """A module of ours in a rank, which is told its number when harness.ranks is imported."""
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in ("harness", "sample", "train"):
            del sys.modules[loaded]
    return importlib.import_module(name)


def train_and_print(out_dir):
    """Train on this rank; returns what it prints."""
    with open(f"{out_dir}.{os.environ['RANK']}", "w+") as sys.stdout:
        printed = sys.stdout
        imported_anew("train").main([*OPTIONS, "--out_dir", out_dir])
        printed.seek(0)
        return printed.read()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoint and metrics of one process and of two, after 12 steps and four stages."""
    folder = tmp_path_factory.mktemp("parallel")
    training.main([*OPTIONS, "--out_dir", str(folder / "one")])
    printed = on_two_ranks(train_and_print, str(folder / "two"))
    found = []
    for name in ("one", "two"):
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        found.append((torch.load(folder / name / "ckpt.pt"), list(map(json.loads, lines))))
    return found, printed


def test_two_processes_reach_the_weights_of_one(runs):
    (one, _), (two, _) = runs[0]
    assert one["run"]["step"] == two["run"]["step"] == 12 and one["run"]["stage"] == 3
    for name, tensor in one["model"].items():
        other = two["model"][name]
        if name.endswith("c_attn.bias"):  # a key's bias adds the same to all scores of a query, so
            queries, _, values = tensor.chunk(3)  # it changes nothing, and its gradient is rounding
            tensor, other = torch.cat([queries, values]), torch.cat(other.chunk(3)[::2])
        torch.testing.assert_close(other, tensor, atol=1e-5, rtol=0)


def test_two_processes_report_the_numbers_of_one(runs):
    (_, one), (_, two) = runs[0]
    assert (one[0]["ranks"], two[0]["ranks"]) == (1, 2)
    for a, b in zip(one[1:], two[1:], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "val_seconds", "test_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=2e-5), name


def test_one_process_prints_for_all(runs):
    assert runs[1][0] and not runs[1][1]


def die_at_step_five(out_dir):
    """Train, but rank 1 ends amid its fifth step."""
    train, steps = imported_anew("train"), []
    sum_gradients = train.sum_gradients

    def sum_or_die(model):
        steps.append(0)
        if len(steps) == 5 and os.environ["RANK"] == "1":
            os._exit(3)
        sum_gradients(model)

    train.sum_gradients = sum_or_die
    train.main([*OPTIONS, "--out_dir", out_dir])


def test_a_rank_that_dies_ends_the_run(tmp_path):
    """The other one fails soon after and does not wait forever."""
    with pytest.raises(ChildFailedError) as error:
        on_two_ranks(die_at_step_five, str(tmp_path / "run"))
    codes = {rank: failure.exitcode for rank, failure in error.value.failures.items()}
    assert codes in ({1: 3}, {0: 1})  # the one that the launcher finds first


def summed_gradients():
    """Those of four weights: used by both ranks, by the first, by the second, by none."""
    ranks = imported_anew("harness.ranks")
    ranks.join(torch.device("cpu"))
    model = torch.nn.ParameterList(torch.zeros(2) for _ in range(4))
    model[0].grad = torch.tensor([1.0, 2.0]) + ranks.RANK
    model[1 + ranks.RANK].grad = torch.ones(2)
    ranks.sum_gradients(model)
    ranks.leave()
    return [None if p.grad is None else p.grad.tolist() for p in model]


def test_a_parameter_without_a_gradient_on_any_rank_stays_without_one():
    """A gradient of zeros would let weight decay and momentum move it."""
    expected = [[3.0, 5.0], [1.0, 1.0], [1.0, 1.0], None]
    assert on_two_ranks(summed_gradients) == {0: expected, 1: expected}


@pytest.mark.house
def test_torchrun_starts_two_ranks(tmp_path):
    """As harness/ranks.py says, but on this machine alone."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local_addr=127.0.0.1",
         "--nproc_per_node=2", "train.py", *OPTIONS, "--max_steps", "1", "--out_dir",
         str(tmp_path / "run")], cwd=ROOT, text=True, capture_output=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("harness.start.RANKS", 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(size))  # as if there
    assert pick_device("cuda") == torch.device("cuda:3")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("number", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_problem_is_trained_on_by_one_rank(monkeypatch, number, size):
    batch, shares = list(range(7)), []
    monkeypatch.setattr(ranks, "RANKS", number)
    for rank in range(number):
        monkeypatch.setattr(ranks, "RANK", rank)
        shares.append(ranks.micro_batches(batch, size))
    assert sorted(item for lists in shares for part in lists for item in part) == batch
    assert all(0 < len(part) <= size for lists in shares for part in lists)
