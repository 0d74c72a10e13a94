"""The parts of a step that analysis.parts times add up to it, at every stage."""
import json

import pytest

from analysis import parts
from conftest import ROOT
from harness.settings import complete, parse
from tasks.common import problems

pytestmark = pytest.mark.house
TINY = ("--n_layer 1 --n_head 2 --n_embd 64 --n_train 64 --n_valid 4 --batch_size 4 "
        "--device cpu").split()


@pytest.mark.parametrize("options, stages", [
    ("--task prontoqa --optimizer muon", ["0", "1", "2", "3", "4"]),
    ("--task prosqa --method no_cot", ["5"]), ("--task gsm8k", ["0", "1", "2"])])
def test_every_stage_has_every_part(capsys, options, stages):
    parts.main([*TINY, *options.split()])
    header, _, *rows, _, whole = capsys.readouterr().out.strip().splitlines()[-4 - len(stages):]
    assert [row.split()[1] for row in rows] == stages
    for row in rows:
        cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | ")))
        times = [float(cells[part]) for part in parts.PARTS]
        assert min(times) > 0 and float(cells["step"]) == pytest.approx(sum(times), abs=0.5)
        assert float(cells["matmul's"]) > 0 and float(cells["GFLOP per s"]) > 0
    s = complete(parse([*TINY, *options.split()]))
    assert whole.startswith(f"a whole run: {16 * s.epochs} steps, ")


def test_steps_of_a_run_are_counted_at_the_stage_of_their_batch():
    """icot changes its stage within an epoch, here in the middle of 16 steps."""
    options = "--task prosqa --method icot --icot_tokens 2 --icot_all_beyond 3 --epochs 3"
    s = complete(parse([*TINY, *options.split(), "--epochs_stage_0", "1"]))
    assert [line["steps of a run"] for line in parts.measure(s)] == [24, 8, 8, 8]


def test_a_wrong_option_and_too_few_problems_end_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parts.main(["--hopz", "3"])
    assert "usage: python -m analysis.parts" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="parts: --n_layer contradicts --init"):
        parts.main(["--task", "gsm8k", "--init", "gpt2", "--n_layer", "3"])
    for unused in (["--max_steps", "3"], ["--n_test", "3"], ["--out_dir", "there"], ["--resume"]):
        with pytest.raises(SystemExit, match=f"parts: {unused[0]} would change nothing: whole"):
            parts.main(unused)
    path = tmp_path / "few.json"
    path.write_text(json.dumps(problems("prosqa", 60, 0, nodes=8)))
    with pytest.raises(SystemExit, match="parts: 54 training problems make 2 batches, but 4 are"):
        parts.main(["--task", "prosqa", "--data", str(path), *TINY, "--batch_size", "32"])


def test_the_run_that_the_options_make_is_measured(monkeypatch):
    def keep(s):
        measured.append(s)
        raise ValueError("that is all")

    measured = []
    monkeypatch.setattr(parts, "measure", keep)
    with pytest.raises(ValueError, match="that is all"):
        parts.main(["--task", "prosqa", "--init", str(ROOT / "results" / "prosqa-balanced.pt")])
    s, = measured
    assert (s.nodes, s.steps, s.batch_size) == (8, "names", 32)
