"""The three ways that bench.py times compute one and the same, and its tables are complete."""
import json

import pytest
import torch

import bench
from conftest import ROOT, tiny_gpt
from model import think
from test_model import aligned, pad, random_rows

SMALL = ("--n_layer 1 --n_head 2 --n_embd 16 --batch_size 2 --rounds 1 --problems 4 --eval_batch 3 "
         "--new_tokens 3").split()


def test_the_slow_way_computes_something_else_than_the_loop():
    model, rows = tiny_gpt(), random_rows([0, 6, 1, 3, 2])
    ids, thought, real = pad(rows, aligned(rows))
    theirs, ours = (way(model, ids, thought, real)[real] for way in (bench.slow, think))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    floor = bench.floor(model, ids, thought, real)[real]
    assert floor.shape == ours.shape and not torch.allclose(floor, ours, atol=1e-3)
    none = torch.zeros_like(thought)
    assert torch.equal(bench.floor(model, ids, none, real), think(model, ids, none, real))


@pytest.mark.parametrize("extra, stages", [("--no-memory --columns 40", ["0", "2"]),
                                           ("--no-memory --task gsm8k", ["0", "2"]),
                                           ("--memory", ["2"])])
def test_the_table_lacks_a_stage_or_a_way(capsys, extra, stages):
    bench.main([*SMALL, *extra.split(), "--stages", *stages])
    header, _, *rows, _, last = capsys.readouterr().out.splitlines()
    assert ("slow MB" in header) == ("--memory" in extra)
    assert "ours/floor" in header and [row.split()[1] for row in rows] == stages
    assert "nan" not in "".join(rows) and last.startswith("evaluation: ")


def test_the_numbers_for_programs_are_not_json_or_not_positive(capsys):
    bench.main([*SMALL, "--json", "--no-memory", "--ways", "ours", "floor", "--stages", "2"])
    result = json.loads(capsys.readouterr().out)
    assert [line["thoughts"] for line in result["steps"]] == [2]
    for line in result["steps"]:
        assert min(line[name] for name in ("floor_ms", "ours_ms", "ours_to_floor", "gflops",
                                           "tokens_per_s")) > 0
        assert "slow_ms" not in line
    assert min(result["evaluation"].values()) > 0


def test_a_slope_is_not_that_of_a_power():
    assert bench.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


@pytest.mark.parametrize("options, message", [
    (["--data", str(ROOT / "LICENSE")], "holds no problems"),
    (["--ways", "floor"], "--ways must name ours")])
def test_a_mistake_ends_in_a_traceback(options, message):
    with pytest.raises(SystemExit, match=f"bench.py: .*{message}"):
        bench.main([*SMALL, *options])
