"""What happens to a run: it is killed, stopped, out of disk, resumed, or its numbers go bad."""
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

import train as training
from conftest import ROOT
from harness.folder import lock
from tasks.common import problems
from test_train import ICOT, PROSQA, STAGES, TINY, lines, same_runs, train, weights

KILLS = int(os.environ.get("COCONUT_KILLS", 4))
OPTIONS = [*PROSQA, *TINY, *STAGES, "--dropout", 0.1, "--uniform_prob", 0.3]  # what is random, too


def train_in_a_fork(*options, log=os.devnull, largest_file=resource.RLIM_INFINITY):
    """A process that trains; it need not import torch again."""
    def child():
        torch.set_num_threads(1)
        sys.stdout = sys.stderr = open(log, "w")
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        train(*options)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def contents(folder):
    """{name: bytes} of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_is_killed_anywhere_ends_as_one_that_is_not(tmp_path):
    """SIGKILL at random moments, many of them while a checkpoint is being written, as each step
    writes one."""
    train(*OPTIONS, "--max_steps", 1, "--out_dir", tmp_path / "warm")  # late imports
    began = time.perf_counter()
    train(*OPTIONS, "--out_dir", tmp_path / "whole")
    seconds, rng, killed = time.perf_counter() - began, random.Random(0), 0
    while True:
        resume = ["--resume"] if (tmp_path / "killed" / "ckpt.pt").exists() else []
        process = train_in_a_fork(*OPTIONS, "--save_every", 0, "--out_dir", tmp_path / "killed",
                                  *resume)
        process.join(rng.random() * 2 * seconds / KILLS if killed < KILLS else None)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        killed += 1
    assert process.exitcode == 0 and killed >= KILLS // 2
    assert weights(tmp_path / "whole")["run"]["step"] == 12
    assert len(lines(tmp_path / "killed")) == 1 + 4 + 1
    assert same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("steps, place, call, save_every, saved, more", [
    (2, "sum_gradients", 2, 0, 1, []),
    (7, "sum_gradients", 3, 999, 0, []),
    (3, "evaluate", 1, 999, 3, []),  # an epoch's
    (12, "evaluate", 5, 999, 12, []),  # the last, on the test split
    (7, "sum_gradients", 6, 0, 5, ["--optimizer", "adamw", "--reset_optimizer"]),
    (6, "sum_gradients", 5, 0, 4, ICOT)])  # it begins stages amid an epoch
def test_a_run_that_ctrl_c_or_max_steps_stops_goes_on_as_if_it_had_not(
        tmp_path, monkeypatch, steps, place, call, save_every, saved, more):
    """It ends bit by bit as the uninterrupted one. Stopped amid an epoch, at its end, and in later
    stages."""
    train(*OPTIONS, *more, "--out_dir", tmp_path / "whole")
    out_dir, calls, own = tmp_path / "stopped run", [], getattr(training, place)

    def stop(*args):
        calls.append(0)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return own(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(training, place, stop)
        train(*OPTIONS, *more, "--save_every", save_every, "--out_dir", out_dir)
    assert str(end.value) == (
        f"train.py: stopped; go on:  python train.py --out_dir '{out_dir}' --resume")
    assert weights(out_dir)["run"]["step"] == saved
    assert train("--resume", "--max_steps", steps, "--out_dir", out_dir)["step"] == steps
    train("--resume", "--out_dir", out_dir)
    assert same_runs(tmp_path / "whole", out_dir)


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path):
    """A limit on the size of files stands for the disk: above it, writing fails."""
    out_dir, log = tmp_path / "run", tmp_path / "log"
    for options in (OPTIONS, ["--resume"]):  # full at the first checkpoint; later
        before = contents(out_dir) if out_dir.exists() else {"lock": b""}
        process = train_in_a_fork(*options, "--out_dir", out_dir, log=log, largest_file=10_000)
        process.join()
        assert process.exitcode == 1 and contents(out_dir) == before
        assert log.read_text().count("train.py: cannot write") == 1
        assert "File too large): what it held before is still there" in log.read_text()
        train(*OPTIONS, "--max_steps", 4, "--out_dir", out_dir, "--overwrite")


def test_a_folder_has_one_run(tmp_path, monkeypatch):
    """Three runs that start together in the default folder get a folder each, and are whole."""
    monkeypatch.chdir(tmp_path)
    runs = [train_in_a_fork(*OPTIONS, "--seed", seed) for seed in range(3)]
    for run in runs:
        run.join()
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name for folder in folders] == [
        "prosqa-coconut", "prosqa-coconut-2", "prosqa-coconut-3"]
    logs = [lines(folder) for folder in folders]
    assert [run.exitcode for run in runs] == [0, 0, 0] and {len(log) for log in logs} == {6}
    assert {log[0]["settings"]["seed"] for log in logs} == {0, 1, 2}
    assert all(weights(folder)["settings"]["seed"] == log[0]["settings"]["seed"]
               for folder, log in zip(folders, logs))
    with lock(folders[0] / "lock"):  # neither does --overwrite take another folder than was meant
        train(*OPTIONS, "--max_steps", 1, "--overwrite")
    assert lines(folders[1]) == logs[1] and (tmp_path / "out" / "prosqa-coconut-4").exists()
    for options in ([*OPTIONS, "--overwrite"], ["--resume"]):
        with lock(folders[0] / "lock"), pytest.raises(SystemExit, match="another process is train"):
            train(*options, "--out_dir", folders[0])


def test_a_rank_without_a_number_of_ranks_is_none(tmp_path):
    done = subprocess.run([sys.executable, "train.py", *map(str, OPTIONS), "--max_steps", "1",
                           "--out_dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "RANK": "1"})
    assert "test accuracy" in done.stdout and (tmp_path / "ckpt.pt").exists()


def test_resume_without_a_folder_goes_on_with_the_newest_run_that_is_not_done(
        tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for steps in (2, 12):
        train(*OPTIONS, "--max_steps", steps)
    assert "note: out/prosqa-coconut is taken, so this run is in out/prosqa-coconut-2\n" in (
        capsys.readouterr().out)
    os.makedirs("out/prosqa-coconut-3")
    torch.save({}, "out/prosqa-coconut-3/ckpt.pt")
    with lock("out/prosqa-coconut/lock"), pytest.raises(SystemExit, match="--max_steps and"):
        train("--task", "prosqa", "--resume", "--max_steps", 2)  # the other is done
    train("--task", "prosqa", "--resume")
    printed = capsys.readouterr().out
    assert all(f"resuming out/prosqa-coconut{end}\n" in printed for end in ("-2", ""))
    assert "note: out/prosqa-coconut-3/ckpt.pt cannot be resumed" in printed
    assert weights("out/prosqa-coconut")["run"]["step"] == 12


def test_a_run_is_overwritten_only_where_asked_and_no_other_file_is(tmp_path, monkeypatch):
    """But one that has made no step is no loss."""
    def stop(model):
        raise KeyboardInterrupt

    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="cannot write to the folder .*thesis.tex/run"):
        train(*OPTIONS, "--out_dir", tmp_path / "thesis.tex" / "run")
    options = [*OPTIONS, "--max_steps", 1, "--out_dir", tmp_path]
    train(*options)
    before = contents(tmp_path)
    for more, message in {(): "holds a run: --resume it, --overwrite it, or choose another",
                          ("--overwrite", "--device", "abacus"): "no device abacus here"}.items():
        with pytest.raises(SystemExit, match=message):
            train(*options, *more)
        assert contents(tmp_path) == before  # until the new run writes its own
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="stopped"):
        patch.setattr(training, "sum_gradients", stop)
        train(*options, "--overwrite")
    assert contents(tmp_path).keys() == {"thesis.tex", "lock", "ckpt.pt"}  # the old log is gone
    train(*options)
    assert contents(tmp_path).keys() == before.keys()


def test_a_run_is_not_resumed_as_another_or_for_less_or_on_fewer_problems(tmp_path):
    path, records, out_dir = tmp_path / "x.json", problems("prosqa", 60, 0, nodes=8), tmp_path / "x"
    path.write_text(json.dumps(records))
    train(*OPTIONS, "--data", path, "--n_train", 0, "--max_steps", 5, "--out_dir", out_dir)
    before = contents(out_dir)
    path.write_text(json.dumps(records[:30]))
    for options, message in {
            ("--seed", 1): "--seed is 1, but 0 in the run of", ("--epochs", 0): "must not be less",
            ("--max_steps", 4): "at step 5 of epoch 1: --max_steps and --epochs must not be less",
            (): "has other problems than when the run began"}.items():
        with pytest.raises(SystemExit, match=message):
            train("--resume", "--out_dir", out_dir, *options)
    assert contents(out_dir) == before


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_ends_before_it_learns_from_numbers_that_are_not_finite(tmp_path, monkeypatch, what):
    def bad_at_the_end(model, hidden, targets):
        nonlocal steps
        steps += model.training  # an evaluation has a loss, too
        loss = good_loss(model, hidden, targets)
        if steps < 7:
            return loss
        if what == "loss":
            return loss * torch.nan
        return loss + (0 * model.wte.weight.sum()).abs().sqrt()  # 0, but its derivative is nan

    steps, good_loss = 0, training.supervised_loss
    monkeypatch.setattr(training, "supervised_loss", bad_at_the_end)
    with pytest.raises(SystemExit, match="train.py: at step 7 the loss is .*: start anew, or .*by "
                                         f"--init {tmp_path}/ckpt.pt, with a smaller"):
        train(*OPTIONS, "--save_every", 0, "--out_dir", tmp_path)
    assert weights(tmp_path)["run"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path)["model"].values())
