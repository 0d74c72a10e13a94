"""The three ways that analysis.bench times compute one and the same; its tables are complete."""
import random

import pytest
import torch

from analysis import bench
from conftest import ROOT, tiny_gpt
from data import collate

pytestmark = pytest.mark.house
SMALL = ("--n_layer 1 --n_head 2 --n_embd 16 --batch_size 2 --rounds 1 --problems 4 --eval_batch 3 "
         "--new_tokens 3").split()


def test_the_slow_way_and_the_loop_compute_the_same_and_the_floor_does_not():
    model, rng, rows = tiny_gpt(), random.Random(0), []
    for k in (0, 6, 1, 3, 2):  # questions and rests are of any length
        question, rest = (rng.choices(range(1, 49), k=rng.randint(2, 11)) for _ in range(2))
        ids = [*question, *[49] * k, *rest]
        rows.append((ids, ids, len(question)))
    ids, _, is_thought, is_real, start = collate(rows, thought_id=49)
    real = is_real[:, start - 1:]
    floor, ours, slow = (way(model, ids, is_thought, is_real, start)[real]
                         for way in bench.WAYS.values())
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-5)
    assert floor.shape == ours.shape and not torch.allclose(floor, ours, atol=1e-3)
    none = torch.zeros_like(is_thought), is_real, start
    assert torch.equal(bench.floor(model, ids, *none), bench.ours(model, ids, *none))


@pytest.mark.parametrize("extra, stages", [("--no-memory --columns 40", ["0", "2"]),
                                           ("--no-memory --task gsm8k --device auto", ["0", "2"]),
                                           ("--memory", ["2"])])
def test_the_table_has_every_stage_and_way(capsys, extra, stages):
    bench.main([*SMALL, *extra.split(), "--stages", *stages])
    header, _, *rows, _, last = capsys.readouterr().out.splitlines()
    assert ("slow MB" in header) == ("--memory" in extra)
    assert "ours/floor" in header and [row.split()[1] for row in rows] == stages
    assert "nan" not in "".join(rows) and last.startswith("evaluation: ")


def test_every_number_of_the_table_is_positive():
    argv = [*SMALL, "--no-memory", "--stages", "2"]
    line, = bench.measure_steps(bench.parse(argv))
    assert line["thoughts"] == 2 and min(line.values()) > 0
    lines = bench.measure_steps(bench.parse([*argv, "1"]))
    assert [line["thoughts"] for line in lines] == [2, 1]
    assert min(bench.measure_evaluation(bench.parse(argv)).values()) > 0


@pytest.mark.parametrize("options, message", [
    (f"--data {ROOT / 'LICENSE'}", "holds no problems"), ("--rounds 0", "--rounds must be more"),
    ("--n_embd 17", "multiple of --n_head"), ("--new_tokens -1", "--new_tokens must be more"),
    ("--stages -1", "--stages must be 0 or more"),
    ("--columns 2000", "up to 1024"), ("--columns 12 --stages 6", "at least 12 more")])
def test_a_mistake_ends_in_a_sentence(options, message):
    with pytest.raises(SystemExit, match=f"bench: .*{message}"):
        bench.main([*SMALL, *options.split()])


def test_a_second_gpu_is_timed_by_its_own_clock_and_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.accelerator, "synchronize", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: asked.append(gpu) or 2**20)
    assert bench.now("cuda:1") > 0 and bench.most_megabytes("cuda:1") == 1
    assert asked == ["cuda:1", "cuda:1"]
