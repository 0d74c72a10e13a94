"""What happens to a run: it is killed, stopped, out of disk, or its numbers go bad."""
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import train as training
from harness.checkpoint import Stop, machine_of
from test_train import PROSQA, SMALL, STAGES, TINY, lines, train, weights

KILLS = int(os.environ.get("COCONUT_KILLS", 6))
DROPOUT_AND_MIXING = [*PROSQA, *TINY, *STAGES, "--dropout", 0.1, "--uniform_prob", 0.3]


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


def same(a, b):
    """Whether two checkpoints hold the same, to the bit; time apart."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a
                                            if "seconds" not in str(key) and key != "settings")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


# ---------------------------------------------------------------------------------------------
# Killed

def test_a_run_that_is_killed_anywhere_ends_as_one_that_is_not(tmp_path):
    """SIGKILL at random moments, many of them while a checkpoint is being written, as each step
    writes one. Dropout and stage mixing are on."""
    train(*DROPOUT_AND_MIXING, "--max_steps", 1, "--out_dir", tmp_path / "warm")  # late imports
    began = time.perf_counter()
    train(*DROPOUT_AND_MIXING, "--out_dir", tmp_path / "whole")
    seconds = time.perf_counter() - began
    rng, killed, options = random.Random(0), 0, [*DROPOUT_AND_MIXING, "--save_every", 0]
    while True:
        out_dir = tmp_path / "killed"
        resume = ["--resume"] if (out_dir / "ckpt.pt").exists() else []
        process = train_in_a_fork(*options, "--out_dir", out_dir, *resume)
        process.join(rng.random() * 2 * seconds / KILLS if killed < KILLS else None)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        killed += 1
    assert process.exitcode == 0 and killed >= KILLS // 2
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert a["run"]["step"] == 12 and same(a, b)
    assert same(lines(tmp_path / "whole")[1:], lines(tmp_path / "killed")[1:])
    assert len(lines(tmp_path / "killed")) == 1 + 4 + 1


def test_a_run_is_saved_every_save_every_seconds_also_amid_an_epoch(tmp_path, monkeypatch):
    """By a clock that moves one second a step, within the only epoch."""
    seconds, saved, own, sum_gradients = [0.0], [], training.save_checkpoint, training.sum_gradients

    def save_and_note(s, run, *args):
        saved.append(run.step)
        own(s, run, *args)

    def sum_and_wait(model):
        seconds[0] += 1
        sum_gradients(model)

    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    monkeypatch.setattr(training, "save_checkpoint", save_and_note)
    monkeypatch.setattr(training, "sum_gradients", sum_and_wait)
    train(*PROSQA, *TINY, "--batch_size", 2, "--epochs", 1, "--save_every", 4.5,
          "--out_dir", tmp_path)
    assert saved == [0, 5, 10, 12, 12]  # before the first step; at the end; with its evaluation


@pytest.mark.parametrize("steps, evaluations", [(2, 1), (3, 2)])
def test_a_run_that_is_killed_in_an_evaluation_ends_as_one_that_is_not(
        tmp_path, monkeypatch, steps, evaluations):
    """At --max_steps amid an epoch, with the test split's evaluation alone, and at an epoch's
    end."""
    options = [*DROPOUT_AND_MIXING, "--max_steps", steps, "--out_dir"]
    whole = train(*options, tmp_path / "whole")
    for evaluation in range(evaluations):
        out_dir, calls = tmp_path / f"killed in {evaluation}", []

        def evaluate(*args):
            calls.append(0)
            if len(calls) > evaluation:
                raise InterruptedError("killed")
            return whole_evaluate(*args)
        whole_evaluate = training.evaluate
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(training, "evaluate", evaluate)
            train(*options, out_dir)
        result = train("--resume", "--out_dir", out_dir, "--max_steps", steps)
        assert result["step"] == steps and result["test_loss"] == whole["test_loss"]
        assert same(lines(out_dir)[1:], lines(tmp_path / "whole")[1:])


# ---------------------------------------------------------------------------------------------
# Signals

@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda it: it.name)
def stopped(request, tmp_path, monkeypatch):
    """The signal that a run got amid its fifth step, its exit code, what it printed, its folder."""
    def sum_and_signal(model):
        steps.append(0)
        if len(steps) == 5:
            os.kill(os.getpid(), request.param)
        sum_gradients(model)

    steps, sum_gradients = [], training.sum_gradients
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run by nohup
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(sys, "stdout", io.StringIO())  # the run may close it
        printed = sys.stdout
        patch.setattr(training, "sum_gradients", sum_and_signal)
        train(*DROPOUT_AND_MIXING, "--save_every", 1000, "--out_dir", tmp_path)
    signal.signal(signal.SIGHUP, before)
    return request.param, exit.value.code, printed.getvalue(), tmp_path


def test_a_stopped_run_is_saved_and_goes_on(stopped):
    number, code, _, out_dir = stopped
    assert code == 128 + number
    assert weights(out_dir)["run"]["step"] == 5
    train("--resume", "--out_dir", out_dir, "--max_steps", 6)
    assert weights(out_dir)["run"]["step"] == 6


@pytest.mark.house
def test_a_stopped_run_says_how_to_go_on(stopped):
    number, _, printed, out_dir = stopped
    command = f"go on:  python train.py --out_dir {out_dir} --resume\n"
    assert printed.endswith(command) == (number != signal.SIGHUP)  # then nobody listens any more


def test_a_second_ctrl_c_ends_a_run_at_once():
    stop = Stop("out")
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # which ends a process at once
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_signal_ends_an_evaluation_at_once():
    stop = Stop("my run")
    with stop, pytest.raises(SystemExit) as exit:
        with stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    assert exit.value.code == 130


def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop("out"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------------------------------------
# Disks

@pytest.fixture(scope="module")
def full_disk(tmp_path_factory):
    """What is left of a run whose disk is full from its first checkpoint on, and of one whose disk
    is full later: exit codes, what they print, the second's first checkpoint, their folders. A
    limit on the size of files stands for the disk: above it, writing fails."""
    folder = tmp_path_factory.mktemp("disk")
    options = [*DROPOUT_AND_MIXING, "--out_dir"]
    first = train_in_a_fork(*options, folder / "first", log=folder / "log 1", largest_file=10_000)
    first.join()
    train(*options, folder / "later", "--max_steps", 4)
    before = (folder / "later" / "ckpt.pt").read_bytes()
    later = train_in_a_fork(*options, folder / "later", "--resume", log=folder / "log 2",
                            largest_file=len(before) // 2)
    later.join()
    printed = [(folder / name).read_text() for name in ("log 1", "log 2")]
    return [first.exitcode, later.exitcode], printed, before, folder / "first", folder / "later"


def test_a_full_disk_costs_no_earlier_checkpoint(full_disk):
    codes, _, before, first, later = full_disk
    assert codes == [1, 1]
    assert (later / "ckpt.pt").read_bytes() == before
    assert not (first / "ckpt.pt").exists() and not [*first.glob("*.tmp"), *later.glob("*.tmp")]


@pytest.mark.house
def test_a_full_disk_ends_in_a_sentence(full_disk):
    _, printed, _, first, later = full_disk
    for text in printed:
        assert text.count("train.py: cannot write") == 1 and "Traceback" not in text
        assert "(File too large): what it held before is still there" in text
    assert os.listdir(first) == [] and sorted(os.listdir(later)) == ["ckpt.pt", "metrics.jsonl"]


@pytest.mark.house
def test_a_folder_that_is_in_use_or_closed_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="is not empty: choose another --out_dir"):
        train(*DROPOUT_AND_MIXING, "--out_dir", tmp_path)
    with pytest.raises(SystemExit, match="cannot make the folder .*thesis.tex/run"):
        train(*DROPOUT_AND_MIXING, "--out_dir", tmp_path / "thesis.tex" / "run")
    assert os.listdir(tmp_path) == ["thesis.tex"]


# ---------------------------------------------------------------------------------------------
# Numbers, memory, sentences

@pytest.fixture(params=["loss", "gradient"])
def not_finite(request, tmp_path, monkeypatch):
    """How a run ends whose loss or gradient is not finite at step 7, and its folder."""
    def bad_at_the_end(model, hidden, targets):
        nonlocal steps
        steps += model.training  # an evaluation has a loss, too
        loss = good_loss(model, hidden, targets)
        if steps == 7 and request.param == "loss":
            return loss * torch.nan
        if steps == 7:  # the square root of 0 is finite, its derivative is not
            return loss + (0 * model.wte.weight.sum()).abs().sqrt()
        return loss

    steps, good_loss = 0, training.supervised_loss
    monkeypatch.setattr(training, "supervised_loss", bad_at_the_end)
    with pytest.raises(SystemExit) as exit:
        train(*DROPOUT_AND_MIXING, "--save_every", 0, "--out_dir", tmp_path)
    return exit.value.code, tmp_path


def test_a_run_ends_before_it_learns_from_numbers_that_are_not_finite(not_finite):
    ckpt = weights(not_finite[1])
    assert ckpt["run"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in ckpt["model"].values())


@pytest.mark.house
def test_a_run_whose_numbers_are_not_finite_says_what_to_do(not_finite):
    message, out_dir = not_finite
    assert message.startswith("train.py: at step 7 the loss is ")
    assert f"start anew, or from a little earlier by --init {out_dir}/ckpt.pt, with" in message


@pytest.mark.house
def test_a_run_is_not_resumed_for_less_than_it_has_done(tmp_path):
    train(*DROPOUT_AND_MIXING, "--max_steps", 5, "--out_dir", tmp_path)
    log = (tmp_path / "metrics.jsonl").read_text()
    for less in (["--epochs", 1], ["--max_steps", 4]):
        with pytest.raises(SystemExit, match="is at step 5 of epoch 2: .* must not be less"):
            train("--resume", "--out_dir", tmp_path, *less)
    assert (tmp_path / "metrics.jsonl").read_text() == log


@pytest.mark.house
def test_a_printed_command_quotes_a_space(tmp_path, capsys):
    out_dir = tmp_path / "my run"
    train(*DROPOUT_AND_MIXING, "--max_steps", 1, "--out_dir", out_dir)
    out = capsys.readouterr().out
    assert f"--out_dir '{out_dir}' --resume" in out and f"--ckpt '{out_dir}/ckpt.pt'" in out


def test_a_log_names_the_runs_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine_of(torch.device("cuda:1")) == "GPU 1"


def resident_kilobytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.house
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_memory_does_not_grow_with_steps_and_evaluations(tmp_path, monkeypatch):
    """Twenty epochs, each with an evaluation; COCONUT_STEPS says how many steps in all."""
    steps, epochs = int(os.environ.get("COCONUT_STEPS", 100)), 20
    sizes, save_log = [], training.save_log
    monkeypatch.setattr(training, "save_log",
                        lambda *args: (save_log(*args), sizes.append(resident_kilobytes())))
    train(*PROSQA, *SMALL, *STAGES, "--batch_size", 8, "--n_valid", 10, "--n_test", 10, "--n_train",
          8 * steps // epochs, "--epochs", epochs, "--max_new_tokens", 10, "--out_dir", tmp_path)
    print("MB after each epoch:", json.dumps([size // 1024 for size in sizes]))
    assert len(sizes) == 21 and sizes[-1] - sizes[7] < 5 * 1024  # all stages seen by epoch 8
