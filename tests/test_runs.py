"""What happens to a run: it is killed, stopped, out of disk, or its numbers go bad."""
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
from harness.keeper import Keeper, Stop, machine_of
from test_train import PROSQA, SMALL, STAGES, TINY, lines, weights

KILLS = int(os.environ.get("COCONUT_KILLS", 6))
DROPOUT_AND_MIXING = [*PROSQA, *TINY, *STAGES, "--dropout", "0.1", "--uniform_prob", "0.3",
                      "--device", "cpu"]


def in_a_fork(function, *args):
    """A process that runs function(*args); it need not import torch again."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    return process


def silently_train(*options):
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    training.main([*map(str, options)])


def same(a, b):
    """Whether two checkpoints hold the same, to the bit; time apart."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a
                                            if "seconds" not in str(key) and key != "settings")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_a_run_that_is_killed_anywhere_ends_otherwise_than_one_that_is_not(tmp_path):
    """SIGKILL at random moments, many of them while a checkpoint is being written, as each step
    writes one. Dropout and stage mixing are on."""
    began = time.perf_counter()
    whole = in_a_fork(silently_train, *DROPOUT_AND_MIXING, "--out_dir", tmp_path / "whole")
    whole.join()
    seconds = time.perf_counter() - began
    assert whole.exitcode == 0
    rng, killed, options = random.Random(0), 0, [*DROPOUT_AND_MIXING, "--save_every", "0"]
    while True:
        out_dir = tmp_path / "killed"
        resume = ["--resume"] if (out_dir / "ckpt.pt").exists() else []
        process = in_a_fork(silently_train, *options, "--out_dir", out_dir, *resume)
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


def test_a_killed_run_has_lost_more_than_save_every_seconds(tmp_path):
    """In the middle of the only epoch, which alone would never save."""
    options = [*PROSQA, *SMALL, "--device", "cpu", "--n_train", 4000, "--n_valid", 5,
               "--n_test", 5, "--batch_size", 8, "--epochs", 1, "--epochs_stage_0", 1,
               "--save_every", 0.2, "--out_dir", tmp_path / "run"]
    process = in_a_fork(silently_train, *options)
    steps = []
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "run" / "ckpt.pt").exists():
            steps.append(weights(tmp_path / "run")["run"]["step"])
            if steps[-1] > 0 and steps[-1] > steps[0]:
                break
    process.kill()
    process.join()
    assert steps[-1] > 0 and weights(tmp_path / "run")["run"]["epoch"] == 0


# ---------------------------------------------------------------------------------------------
# Signals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def started(tmp_path):
    """{signal: a run that has begun to train}; it heeds SIGHUP also if pytest runs by nohup."""
    runs = {}
    for number in SIGNALS:
        options = [*DROPOUT_AND_MIXING, "--n_train", "1600", "--batch_size", "1", "--out_dir",
                   str(tmp_path / number.name)]
        runs[number] = subprocess.Popen(
            [sys.executable, "-u", "train.py", *options], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    yield runs
    for run in runs.values():
        run.kill()
        run.communicate()


def test_a_stopped_run_is_not_saved_or_does_not_say_how_to_go_on(started, tmp_path):
    for number, run in started.items():
        while "step 50/" not in run.stdout.readline():
            assert run.poll() is None, run.stderr.read()
        assert weights(tmp_path / number.name)["run"]["step"] == 0
        run.send_signal(number)
    for number, run in started.items():
        out_dir = tmp_path / number.name
        out, err = run.communicate(timeout=30)
        assert run.returncode == 128 + number and err == ""
        command = f"go on:  python train.py --out_dir {out_dir} --resume\n"
        assert out.endswith(command) == (number != signal.SIGHUP)  # then nobody listens any more
        step = weights(out_dir)["run"]["step"]
        assert step >= 50
        training.main(["--resume", "--out_dir", str(out_dir), "--max_steps", str(step + 1)])
        assert weights(out_dir)["run"]["step"] == step + 1


def test_a_second_ctrl_c_has_to_wait():
    stop = Stop("out")
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # which ends a process at once
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_an_evaluation_has_to_end_before_a_run_stops(capsys):
    stop = Stop("my run")
    with stop, pytest.raises(SystemExit) as exit:
        with stop.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    assert exit.value.code == 130 and "--out_dir 'my run' --resume" in capsys.readouterr().out


def test_nohup_does_not_help():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop("out"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_that_is_killed_in_its_last_evaluation_cannot_end(tmp_path, monkeypatch, steps):
    """At --max_steps amid an epoch, and at the end of one."""
    options = [*map(str, DROPOUT_AND_MIXING), "--max_steps", str(steps), "--out_dir"]
    whole = training.main([*options, str(tmp_path / "whole")])
    for evaluation in (1, 2):  # of the validation split, of the test split
        out_dir, calls = str(tmp_path / f"killed in {evaluation}"), []

        def evaluate(*args):
            calls.append(0)
            if len(calls) == evaluation:
                raise InterruptedError("killed")
            return whole_evaluate(*args)
        whole_evaluate = training.evaluate
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match="killed"):
            patch.setattr(training, "evaluate", evaluate)
            training.main([*options, out_dir])
        result = training.main(["--resume", "--out_dir", out_dir, "--max_steps", str(steps)])
        assert result["step"] == steps and result["test_loss"] == whole["test_loss"]
        assert same(lines(out_dir)[1:], lines(tmp_path / "whole")[1:])


def test_a_run_can_be_resumed_for_less_than_it_has_done(tmp_path):
    training.main([*map(str, DROPOUT_AND_MIXING), "--max_steps", "5", "--out_dir", str(tmp_path)])
    log = (tmp_path / "metrics.jsonl").read_text()
    for less in (["--epochs", "1"], ["--max_steps", "4"]):
        with pytest.raises(SystemExit, match="is at step 5 of epoch 2: .* must not be less"):
            training.main(["--resume", "--out_dir", str(tmp_path), *less])
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_a_printed_command_breaks_at_a_space(tmp_path, capsys):
    out_dir = tmp_path / "my run"
    training.main([*map(str, DROPOUT_AND_MIXING), "--max_steps", "1", "--out_dir", str(out_dir)])
    out = capsys.readouterr().out
    assert f"--out_dir '{out_dir}' --resume" in out and f"--ckpt '{out_dir}/ckpt.pt'" in out


def test_a_log_names_another_gpu_than_the_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine_of(torch.device("cuda:1")) == "GPU 1"


# ---------------------------------------------------------------------------------------------
# Disks

def train_with_files_up_to(size, *options):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    training.main([*map(str, options)])


def test_a_full_disk_costs_the_earlier_checkpoint_or_gets_a_traceback(tmp_path, capfd):
    """A limit on the size of files stands for the disk: above it, writing fails."""
    options = [*DROPOUT_AND_MIXING, "--out_dir", tmp_path / "run"]
    process = in_a_fork(train_with_files_up_to, 10_000, *options)  # not even a first checkpoint
    process.join()
    assert process.exitcode == 1 and list((tmp_path / "run").iterdir()) == []
    training.main([*map(str, options), "--max_steps", "4"])
    before = (tmp_path / "run" / "ckpt.pt").read_bytes()
    process = in_a_fork(train_with_files_up_to, 100_000, *options, "--resume")
    process.join()
    assert process.exitcode == 1
    assert (tmp_path / "run" / "ckpt.pt").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "run")) == ["ckpt.pt", "metrics.jsonl"]
    err = capfd.readouterr().err
    assert err.count("train.py: cannot write") == 2 and "Traceback" not in err
    assert "(File too large): what it held before is still there" in err


def test_a_folder_that_is_in_use_or_closed_is_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit, match="is not empty: choose another --out_dir"):
        training.main([*DROPOUT_AND_MIXING, "--out_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot make the folder .*thesis.tex/run"):
        training.main([*DROPOUT_AND_MIXING, "--out_dir", str(tmp_path / "thesis.tex" / "run")])
    assert os.listdir(tmp_path) == ["thesis.tex"]


# ---------------------------------------------------------------------------------------------
# Numbers, memory

@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_run_goes_on_with_numbers_that_are_not_finite(tmp_path, monkeypatch, bad):
    def bad_at_the_end(model, hidden, targets):
        nonlocal steps
        steps += 1
        loss = good_loss(model, hidden, targets)
        if steps == 6 and bad == "loss":
            return loss * torch.nan
        if steps == 6:  # the square root of 0 is finite, its derivative is not
            return loss + (0 * model.wte.weight.sum()).abs().sqrt()
        return loss

    steps, good_loss = -1, training.supervised_loss
    monkeypatch.setattr(training, "supervised_loss", bad_at_the_end)
    with pytest.raises(SystemExit, match="train.py: at step 7 the loss is .*, the gradient's norm "
                                         "nan: start anew, or from a little earlier by --init"):
        training.main([*DROPOUT_AND_MIXING, "--save_every", "0", "--out_dir", str(tmp_path)])
    ckpt = weights(tmp_path)
    assert ckpt["run"]["step"] == 6
    assert all(tensor.isfinite().all() for tensor in ckpt["model"].values())


def resident_kilobytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def train_and_measure(out_dir, steps, path):
    """Memory after each epoch, as JSON."""
    sizes, save_metrics = [], Keeper.save_metrics
    Keeper.save_metrics = lambda *args: (save_metrics(*args), sizes.append(resident_kilobytes()))
    epochs = 20
    silently_train(*PROSQA, *SMALL, *STAGES, "--device", "cpu", "--batch_size", 8, "--n_valid", 10,
                   "--n_test", 10, "--n_train", 8 * steps // epochs, "--epochs", epochs,
                   "--max_new_tokens", 10, "--out_dir", out_dir)
    path.write_text(json.dumps(sizes))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_memory_grows_with_every_step_or_evaluation(tmp_path):
    """Twenty epochs, each with an evaluation; COCONUT_STEPS says how many steps in all."""
    steps = int(os.environ.get("COCONUT_STEPS", 200))
    in_a_fork(train_and_measure, tmp_path / "run", steps, tmp_path / "sizes").join()
    sizes = json.loads((tmp_path / "sizes").read_text())
    print("MB after each epoch:", *[size // 1024 for size in sizes])
    assert len(sizes) == 21 and sizes[-1] - sizes[7] < 5 * 1024  # all stages seen by epoch 8
