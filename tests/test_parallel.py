"""Several processes train as one does: ranks that torchrun's launcher forks from this process."""
import importlib
import json
import os
import sys

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import train as training
from harness import ranks
from harness.start import pick_device
from model import GPT

# A batch of nine is shared unevenly, and the last batch of an epoch has one problem for two ranks.
OPTIONS = ("--task prontoqa --hops 2 --device cpu --n_layer 2 --n_head 2 --n_embd 32 --n_train 19 "
           "--n_valid 7 --n_test 6 --batch_size 9 --micro_batch 3 --epochs 4 --epochs_stage_0 1 "
           "--epochs_per_stage 1 --max_new_tokens 4 --optimizer muon --learning_rate 1e-3 "
           "--weight_decay 1").split()
TWO_RANKS = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d",
                         rdzv_endpoint="127.0.0.1:0", local_addr="127.0.0.1", run_id="tests",
                         start_method="fork", max_restarts=0, monitor_interval=0.1,
                         signals_to_handle="SIGQUIT")  # other tests send the usual ones


def train_on_this_rank(out_dir):
    for name in list(sys.modules):  # harness.ranks learns its number when it is imported
        if name.split(".")[0] in ("harness", "sample", "train"):
            del sys.modules[name]
    torch.set_num_threads(2 - int(os.environ["RANK"]))
    importlib.import_module("train").main([*OPTIONS, "--out_dir", out_dir])


def test_two_processes_reach_the_weights_and_numbers_of_one(tmp_path, monkeypatch, capfd):
    def with_an_idle_layer(model, config):
        init(model, config)
        model.h[0].idle = torch.nn.Linear(8, 8)  # no gradient: neither muon nor decay moves it

    init = GPT.__init__
    monkeypatch.setattr(GPT, "__init__", with_an_idle_layer)
    training.main([*OPTIONS, "--out_dir", str(tmp_path / "one")])
    elastic_launch(TWO_RANKS, train_on_this_rank)(str(tmp_path / "two"))
    printed = capfd.readouterr().out
    assert printed.count("test accuracy") == 2, "rank 0 prints for all"
    assert printed.count(" of 2 threads") == 1, "rank 0 counts the threads for all"

    one, two = (torch.load(tmp_path / name / "ckpt.pt") for name in ("one", "two"))
    assert one["run"]["step"] == two["run"]["step"] == 12 and one["run"]["stage"] == 3
    for name, tensor in one["model"].items():
        other = two["model"][name]
        if name.endswith("c_attn.bias"):  # a key's bias adds the same to all scores of a query, so
            queries, _, values = tensor.chunk(3)  # it changes nothing, and its gradient is rounding
            tensor, other = torch.cat([queries, values]), torch.cat(other.chunk(3)[::2])
        torch.testing.assert_close(other, tensor, atol=1e-5, rtol=0)

    one, two = (list(map(json.loads, open(tmp_path / name / "metrics.jsonl")))
                for name in ("one", "two"))
    for a, b in zip(one[1:], two[1:], strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "val_seconds", "test_seconds"}:
            assert b[name] == pytest.approx(a[name], abs=2e-5), name


def test_each_rank_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("harness.start.RANKS", 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(size))  # as if there
    assert pick_device("cuda") == torch.device("cuda:3")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("number", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_problem_is_trained_on_by_one_rank(monkeypatch, number, size):
    batch, parts = list(range(7)), []
    monkeypatch.setattr(ranks, "RANKS", number)
    for rank in range(number):
        monkeypatch.setattr(ranks, "RANK", rank)
        parts += ranks.micro_batches(batch, size)
    assert sorted(sum(parts, [])) == batch
    assert all(0 < len(part) <= size for part in parts)
