"""What runs are compared with, and the pictures and tables of them."""
import json
import random
import re
import sys
from dataclasses import asdict

import pytest
import torch

from analysis import __main__ as analyze
from analysis import draw
from analysis.runs import (TABLE, best_guess, comparison, paired_interval, read_metrics,
                           rows_of_table)
from analysis.thoughts import interval, load_probe
import train as training
from conftest import ROOT
from harness.settings import Settings, complete, label
from harness import start
from harness.start import load_run
from tasks import gsm8k, prontoqa, prosqa
from tasks.common import checksum, load_splits, problems, read_examples, shortcut_accuracy
from tasks.record import Example
from test_tasks import check_prontoqa
from train import evaluate

pytestmark = pytest.mark.house
LOGS = sorted(map(str, (ROOT / "results").glob("*.jsonl")))
TINY = ("--device cpu --n_layer 1 --n_head 1 --n_embd 8 --n_train 8 --n_valid 4 --n_test 6 "
        "--batch_size 8 --epochs 2 --epochs_stage_0 1 --epochs_per_stage 1 --max_new_tokens 8")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("runs") / "prontoqa"
    training.main(["--task", "prontoqa", "--data", "generated", "--hops", "2", *TINY.split(),
                   "--out_dir", str(out_dir)])
    return out_dir


def test_every_prosqa_rule_bets_on_its_option():
    """The lempus is two edges below Tom, the scrompus one below Rex and two below Tom's child."""
    question = ("Tom is a terpus. Every terpus is a lempus. Rex is a scrompus. Every terpus is a "
                "rorpus. Every rorpus is a scrompus. Is Tom a lempus or scrompus?")
    tom, rex = "Tom is a lempus.", "Tom is a scrompus."
    assert prosqa.guesses(question) == {
        "first option": tom, "fewer mentions": tom, "first mentioned later": rex,
        "not within 2 hops of anybody": None, "farther from its nearest entity": tom,
        "more ancestors": rex}


def test_a_name_within_another_is_no_mention():
    question = ("Tom is a brimpus. Rex is a jelpus. Every brimpus is a impus. Is Tom a jelpus or "
                "impus?")
    assert prosqa.guesses(question)["first mentioned later"] == "Tom is a impus."


def test_every_prontoqa_rule_bets_on_its_answer():
    question = ("Vumpuses are not wooden. Each gorpus is a vumpus. Every impus is wooden. Sally is "
                "a gorpus. True or false: Sally is wooden.")
    assert list(prontoqa.guesses(question).values()) == ["True", "False", "True", "False"]
    swapped = question.replace("is wooden.", "is not wooden.", 2).replace("are not", "are")
    assert list(prontoqa.guesses(swapped).values()) == ["False", "False", "True", "False"]


def test_arithmetic_rules_read_numbers_in_digits_and_in_words():
    question = "Ivy has 30 cards. Ivy buys two boxes with 4 cards in each box. How many?"
    assert list(gsm8k.guesses(question).values()) == ["4", "30", "36", "240", "120", "26"]


def test_a_rule_without_an_opinion_counts_as_half_right():
    even = ("Tom is a lempus. Rex is a scrompus. Is Tom a lempus or scrompus?", [],
            "Tom is a lempus.")
    result = shortcut_accuracy("prosqa", [Example(*even)] * 3)
    assert result["first option"] == 1 and result["more ancestors"] == 0.5


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_the_last_hops_of_a_problem_are_a_sound_problem(hops):
    for r in problems("prontoqa", 50, 0, hops=5):
        example = Example(r["question"], r["steps"], r["answer"])
        check_prontoqa(prontoqa.last_hops(example, hops)._asdict(), hops)


def test_the_last_hops_of_the_official_problems_are_sound_problems(real_data):
    for example in read_examples(real_data / "prontoqa_5hop_raw.json"):
        check_prontoqa(prontoqa.last_hops(example, 2)._asdict(), hops=2)


def result(accuracy, seconds=0, n=500, **more):
    """The last line of a log."""
    return {"test_accuracy": accuracy, "test_tokens": 8, "test_seconds": 0.02, "test_n": n,
            "seconds": seconds} | more


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_table_shows_the_mean_and_the_spread_over_seeds(tmp_path, capsys):
    for seed, accuracy in enumerate([0.8, 0.9, 1.0, 0.5]):
        given = {"task": "prosqa", "data": "generated", "seed": seed}
        given |= {"uniform_prob": 0.3, "eot": True} if seed == 3 else {}
        lines = [{"settings": asdict(complete(given))},
                 {"epoch": 1, "stage": 0, "val_accuracy": accuracy - 0.3},
                 {"epoch": 2, "stage": 1, "val_accuracy": accuracy - 0.1},
                 result(accuracy, 60 * seed)]
        write_log(tmp_path / f"{seed}.jsonl", lines)
    analyze.main(["table", *(str(tmp_path / f"{seed}.jsonl") for seed in range(4))])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `prosqa` | generated | `coconut` | 3 | 60.0 80.0 | 90.0 | 10.0 | 93.5 | 8.0 | 20 | 1 |",
        "| `prosqa` | generated | `coconut --eot --uniform_prob 0.3` | 1 | 20.0 40.0 | 50.0 |  | "
        "93.7 | 8.0 | 20 | 3 |"]


# ---------------------------------------------------------------------------------------------
# Runs compared problem by problem

def write_run(path, right, problems="p0", **given):
    """A log of a run with nothing in it but settings and test results; returns its path."""
    write_log(path, [{"settings": asdict(complete(given))},
                     result(right.count("1") / len(right), n=len(right), test_right=right,
                            test_problems=problems)])
    return str(path)


def test_a_comparison_pairs_two_runs_problem_by_problem(tmp_path, capsys):
    """90 and 81 of 100 are right: 80 by both, 10 only by the first, 1 only by the second."""
    first = write_run(tmp_path / "a", "1" * 80 + "1" * 10 + "0" + "0" * 9)
    other = write_run(tmp_path / "b", "1" * 80 + "0" * 10 + "1" + "0" * 9, method="cot")
    analyze.main(["compare", first, other])
    p, q = (1 + 1) / 102, (10 + 1) / 102  # Bonett and Price
    half = 1.96 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert capsys.readouterr().out.splitlines() == [
        "| method | seeds | problems | test | difference | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `coconut` | 1 | 100 | 90.0 |  |  |",
        f"| `cot` | 1 | 100 | 81.0 | -9.0 | {100 * (p - q - half):+.1f} to "
        f"{100 * (p - q + half):+.1f} |"]
    assert p - q + half < 0 < -0.09 + 1.96 * (0.9 * 0.1 / 100 + 0.81 * 0.19 / 100) ** 0.5


def test_an_interval_of_differences_holds_the_truth_as_often_as_it_says():
    low, high = paired_interval([0] * 500)
    assert -3.5 / 500 < low < -2.5 / 500 and high == -low  # as by the rule of three
    rng, inside = random.Random(0), 0
    for _ in range(600):  # the truth: 0.1
        low, high = paired_interval(rng.choices([1, 0, -1], [0.15, 0.8, 0.05], k=100))
        inside += low < 0.1 < high
    assert 0.93 < inside / 600 < 0.98


@pytest.mark.parametrize("same, n, width", [(False, 80, 1), (True, 40, 2 ** 0.5)])
def test_a_problem_of_a_file_counts_once_over_all_seeds(tmp_path, same, n, width):
    """Two seeds, whose problems are the same if they come from a file; the differences are."""
    paths = [write_run(tmp_path / f"{method} {seed}", right, "p0" if same else f"p{seed}",
                       method=method, seed=seed)
             for method, right in (("cot", "10" * 20), ("coconut", "11" * 20)) for seed in (0, 1)]
    first, other = comparison(paths)
    assert first[1:3] == [2, n] == other[1:3] and other[3:5] == ["100.0", "+50.0"]
    low, high = (float(end) for end in other[5].split(" to "))
    assert high - low == pytest.approx(22 * width, abs=2)


def test_a_problem_of_a_file_counts_once_over_all_seeds_in_a_picture(monkeypatch):
    monkeypatch.setattr(analyze, "best_guess", lambda s, result: 0.5)
    for data, n in (("x.json", 40), ("generated", 80)):
        runs = [(Settings(seed=seed, data=data), [], result(0.5 + 0.1 * seed, n=40))
                for seed in (0, 1)]
        assert analyze.pooled(runs) == {"accuracy": pytest.approx(0.55), "guess": 0.5,
                                        "interval": pytest.approx(interval(0.55 * n, n))}


@pytest.mark.parametrize("change, message", [
    ({"seed": 1}, r"cot has the seeds \[1\], the first \[0\]: only runs of equal seed"),
    ({"problems": "p1"}, "cot on prontoqa, balanced, with seed 0 was tested on other problems"),
    ({"right": "1", "problems": "p1"}, "their size and number must be the same"),
    ({"task": "prosqa", "problems": "p1"}, "cot on prosqa, balanced, with seed 0 was tested on ot"),
    ({"method": "coconut"}, "is a second run of coconut with seed 0"),
])
def test_runs_that_were_asked_other_problems_are_not_compared(tmp_path, change, message):
    first = write_run(tmp_path / "a", "11")
    other = write_run(tmp_path / "b", **{"right": "01", "method": "cot"} | change)
    with pytest.raises(SystemExit, match=f"analysis: .*{message}"):
        analyze.main(["compare", first, other])
    if "second run" in message:
        with pytest.raises(SystemExit, match=f"analysis: .*{message}"):
            analyze.main(["table", first, other])


def test_a_log_without_single_answers_is_not_compared(tmp_path):
    with pytest.raises(SystemExit, match="does not say which test problems the model got right"):
        write_log(tmp_path / "old", [{"settings": asdict(complete({"method": "cot"}))}, result(1)])
        analyze.main(["compare", write_run(tmp_path / "a", "11"), str(tmp_path / "old")])


def test_a_finished_run_can_be_compared(tiny_run, capsys):
    analyze.main(["compare", str(tiny_run)])
    accuracy = read_metrics(str(tiny_run))[2]["test_accuracy"]
    assert f" | 1 | 6 | {100 * accuracy:.1f} |" in capsys.readouterr().out


@pytest.mark.parametrize("given, text", [
    ({}, "coconut"),
    ({"hops": 5, "wording": "official"}, "coconut --hops 5 --wording official"),
    ({"steps": "sentences", "eot": True}, "coconut --eot --steps sentences"),
    ({"method": "cot", "max_steps": 20}, "cot --max_steps 20"),
    ({"init": "gpt2"}, "coconut --init gpt2"),
    ({"init": "gpt2", "data": "x.json", "extra_stage": True}, "coconut --init gpt2 --extra_stage"),
])
def test_a_label_names_every_option_that_differs_from_the_defaults(given, text):
    words = label(complete(given)).split(" --")
    assert words[0] == text.split(" --")[0] and set(words) == set(text.split(" --"))


def test_shortcuts_are_counted_on_the_runs_own_problems(tiny_run, capsys):
    analyze.main(["shortcuts", str(tiny_run)])
    out = capsys.readouterr().out
    assert "6 test problems of prontoqa, generated" in out
    assert "100.0%  the sign of the concept mentioned more often" in out


@pytest.mark.parametrize("hops", [["--hops", 2], ["--hops", 1], []])
def test_accuracy_is_measured_on_a_file(tiny_run, tmp_path, capsys, hops):
    records = problems("prontoqa", 7, 1, "valid", hops=2)
    (tmp_path / "other.json").write_text(json.dumps(records))
    analyze.main(["accuracy", str(tiny_run), "--data", str(tmp_path / "other.json"),
                  *map(str, hops)])
    out = capsys.readouterr().out
    assert "of 7 problems right" in out and out.count(" of 7 ") == 2, "one rule is always right"
    assert f"| {hops[1] + 1 if hops else 3} | 7 | " in out, "each has a step for each hop, and one"


def test_no_rule_applies_to_problems_in_other_words_than_the_tasks(tiny_run, tmp_path, capsys):
    (tmp_path / "own.json").write_text(json.dumps([
        {"question": f"Is {n} even?", "steps": ["Halve."], "answer": "True"} for n in range(5)]))
    for command in ("accuracy", "intervene"):
        analyze.main([command, str(tiny_run), "--data", str(tmp_path / "own.json")])
        out = capsys.readouterr().out
        assert "5 problems" in out and out.count("no rule applies") == 1


def test_commands_refuse_in_a_sentence_what_is_not_for_their_task(tmp_path, capsys):
    path, run = tmp_path / "own.json", str(ROOT / "results" / "prosqa-balanced.pt")
    own = {"question": "What is 0 plus one?", "steps": [], "answer": "one."}
    path.write_text(json.dumps([own]))
    analyze.main(["accuracy", run, "--data", str(path)])
    assert "no rule applies" in capsys.readouterr().out
    for command in ("retry", "tree", "superposition"):
        with pytest.raises(SystemExit, match="'What is 0 plus one\\?' does not end as ProsQA's"):
            analyze.main([command, run, "--data", str(path)])
    for hops in ("0", "1"):
        with pytest.raises(SystemExit, match="--hops is for prontoqa, the run of prosqa"):
            analyze.main(["accuracy", run, "--hops", hops])


def test_a_run_is_tested_on_enough_problems_of_another_source(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for split, n in (("train", 20), ("valid", 2), ("test", 7)):
        (folder / f"{split}.json").write_text(json.dumps(problems("prosqa", n, 0, split, nodes=8)))
    generated, files = (complete({"task": "prosqa"} | more)
                        for more in ({"n_test": 3}, {"data": str(folder)}))
    assert [len(start.tested_problems(s)) for s in (generated, files)] == [3, 7]
    assert len(start.tested_problems(generated, str(folder))) == 7
    assert len(start.tested_problems(files, "balanced")) == 500


def test_hops_are_refused_for_steps_that_are_names(tiny_run):
    with pytest.raises(SystemExit, match="--hops is for problems whose steps are sentences"):
        analyze.main(["accuracy", str(tiny_run), "--hops", "1"])


def test_a_run_is_tested_on_the_same_problems_again(tiny_run, capsys):
    analyze.main(["accuracy", str(tiny_run), "--data", "generated"])
    result = read_metrics(str(tiny_run))[2]
    assert f"{result['test_accuracy']:.1%} of 6 problems" in capsys.readouterr().out


def test_a_slim_checkpoint_has_the_same_weights_in_half_the_size(tiny_run, tmp_path, capsys):
    analyze.main(["slim", str(tiny_run), "--out", str(tmp_path / "ckpt.pt")])
    whole, small = load_run(tiny_run / "ckpt.pt"), load_run(tmp_path / "ckpt.pt")
    for name, tensor in whole[1].state_dict().items():
        torch.testing.assert_close(small[1].state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    assert small[0]["settings"] == whole[0]["settings"]
    assert small[2].encode("Every impus") == whole[2].encode("Every impus")
    analyze.main(["slim", str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "ckpt.pt")])
    assert load_run(tmp_path / "ckpt.pt")[0]["run"] == whole[0]["run"]
    assert (tmp_path / "ckpt.pt").stat().st_size < 0.5 * (tiny_run / "ckpt.pt").stat().st_size


def test_a_slim_checkpoint_is_not_resumed(tiny_run, tmp_path):
    (tmp_path / "my run").mkdir()
    analyze.main(["slim", str(tiny_run), "--out", str(tmp_path / "my run" / "ckpt.pt")])
    with pytest.raises(SystemExit, match="train.py: .* no optimizer .* --init '.*/ckpt.pt'"):
        training.main(["--resume", "--out_dir", str(tmp_path / "my run")])


@pytest.mark.parametrize("name, least", [
    ("prontoqa", 0.97), ("prontoqa-balanced", 0.97), ("prontoqa-sentences", 0.97),
    ("prosqa", 0.94), ("prosqa-balanced", 0.94), ("gsm8k", 0.94), ("prosqa-nodes16", 0.85),
    ("prosqa-nodes16-cot", 0.7), ("prontoqa-5hops", 0.95), ("prosqa-28nodes", 0.97)])
def test_a_shipped_model_solves_its_problems(name, least):
    ckpt, model, enc = load_run(ROOT / "results" / f"{name}.pt")
    s = Settings(**ckpt["settings"])
    test = load_splits(s.data, s.task, s.size(), False, s.seed, 1, 1, 100)[2]
    result = evaluate(model, test, ckpt["run"]["stage"], s.curriculum(), enc, 50, s.max_new_tokens)
    assert result["n"] == 100 and result["accuracy"] >= least


@pytest.mark.parametrize("name, file, least", [
    ("prontoqa-5hops", "prontoqa_5hop_raw.json", 0.98),
    ("prosqa-28nodes", "prosqa_valid.json", 0.97)])
def test_a_model_of_generated_problems_solves_official_ones(real_data, name, file, least):
    probe = load_probe(str(ROOT / "results" / f"{name}.pt"), str(real_data / file), 100, "cpu")
    assert sum(probe.right(probe.written(probe.k))) >= 100 * least


@pytest.mark.parametrize("command", [["curve", *LOGS[:6]], ["passes"],
                                     ["bars", *(log for log in LOGS if "coconut-seed0" in log)]])
def test_a_picture_is_drawn(tmp_path, command):
    pytest.importorskip("matplotlib", reason="only the pictures need matplotlib")
    analyze.main([*command, "--out", str(tmp_path / "picture.png")])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_its_legend_where_its_first_panel_is_empty():
    pytest.importorskip("matplotlib", reason="only the pictures need matplotlib")
    bar = {"method": "cot", "accuracy": 0.5, "interval": (0.4, 0.6), "guess": 0.5}
    figure = draw.bars([bar | {"task": "prosqa", "data": "generated"},
                        bar | {"task": "prontoqa", "data": "official"}])
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["best guess"]
    assert {axes.get_title() for axes in figure.axes} == {"", "prosqa", "official prontoqa"}


def test_a_bar_is_as_long_as_the_mean_accuracy_of_its_runs(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("analysis.draw.bars", lambda rows: drawn.extend(rows) or Nothing())
    logs = [log for log in LOGS if re.search("prosqa-(balanced-)?(coconut|cot|no_cot)-", log)]
    analyze.main(["bars", *logs, "--out", str(tmp_path / "picture.png")])
    accuracies = {}
    for s, _, result in map(read_metrics, logs):
        accuracies.setdefault((s.data, s.method), []).append(result["test_accuracy"])
    assert {(row["data"], row["method"]): row["accuracy"] for row in drawn} == {
        key: pytest.approx(sum(some) / len(some)) for key, some in accuracies.items()}
    for row in drawn:
        assert row["interval"][0] < row["accuracy"] < row["interval"][1] and row["guess"] > 0.4


def test_a_point_is_the_mean_accuracy_of_the_runs_of_one_size(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("analysis.draw.sizes", lambda *given: drawn.append(given) or Nothing())
    logs = []
    for method, seed, nodes, right in [("cot", 0, 9, "1110"), ("cot", 1, 9, "1000"),
                                       ("cot", 0, 12, "0010"), ("coconut", 0, 9, "1111")]:
        given = {"task": "prosqa", "nodes": nodes, "method": method, "seed": seed, "n_test": 4}
        asked = checksum(start.tested_problems(complete(given)))
        logs.append(write_run(tmp_path / f"{nodes}-{method}-{seed}", right, asked, **given))
    analyze.main(["sizes", *logs, "--out", str(tmp_path / "picture.png")])
    (rows, name), = drawn
    assert name == "nodes" and {(row["method"], row["size"]): (row["accuracy"], row["seeds"])
                                for row in rows} == {
        ("cot", 9): (0.5, [0.75, 0.25]), ("cot", 12): (0.25, [0.25]), ("coconut", 9): (1, [1])}
    with pytest.raises(SystemExit, match="must differ in one size"):
        analyze.main(["sizes", *logs[:2]])
    for other in ({"data": "generated"}, {"n_embd": 32}):  # they would lie on one line
        given = {"task": "prosqa", "nodes": 9, "method": "cot", "n_test": 4} | other
        asked = checksum(start.tested_problems(complete(given)))
        with pytest.raises(SystemExit, match="may differ in seed, method and n_layer only"):
            analyze.main(["sizes", *logs, write_run(tmp_path / "other", "1110", asked, **given)])
    other = {"task": "prosqa", "nodes": 8, "method": "cot", "n_test": 4, "learning_rate": 0.5}
    asked = checksum(start.tested_problems(complete(other)))
    with pytest.raises(SystemExit, match="may differ in seed, method and n_layer only"):
        analyze.main(["sizes", *logs, write_run(tmp_path / "other", "1110", asked, **other)])
    with pytest.raises(SystemExit, match="none of these is a run of coconut, cot, "):
        analyze.main(["bars", write_run(tmp_path / "other", "1110", method="icot")])
    changed = write_run(tmp_path / "changed", "1110", "p0", task="prosqa", n_test=4)
    with pytest.raises(SystemExit, match="was tested on other problems than balanced has now"):
        analyze.main(["shortcuts", changed])


class Nothing:
    """A picture of which nothing is kept."""
    def savefig(self, path):
        pass


def test_a_missing_matplotlib_is_named_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="analysis: .*pip install matplotlib"):
        analyze.main(["curve", *LOGS, "--out", str(tmp_path / "curve.png")])


@pytest.mark.parametrize("command", ["curve {}", "table {}", "shortcuts {}",
                                     "accuracy {} --data generated"])
def test_a_file_that_is_no_run_is_refused_in_a_sentence(tmp_path, command):
    for text in ("not a run", '{"settings": 5}', '{"settings": {"task": "chess"}}',
                 '{"settings": {"task": "prosqa"}}\n5\n'):
        (tmp_path / "x").write_text(text)
        with pytest.raises(SystemExit, match="analysis: .*(is no metrics.jsonl|cannot read)"):
            analyze.main(command.format(tmp_path / "x").split())


# ---------------------------------------------------------------------------------------------
# A figure measures what it says

@pytest.fixture(scope="module")
def run_on_a_file(tmp_path_factory):
    """(its folder, its file): 30 problems whose steps are names, of which the last is too long."""
    folder = tmp_path_factory.mktemp("file")
    records = problems("prosqa", 30, 0, nodes=8, steps="names")
    records[-1]["question"] = "Well, " * 200 + records[-1]["question"]
    (folder / "problems.json").write_text(json.dumps(records))
    training.main(["--task", "prosqa", "--data", str(folder / "problems.json"), *TINY.split(),
                   "--n_train", "0", "--n_valid", "0", "--n_test", "0", "--block_size", "128",
                   "--out_dir", str(folder / "run")])
    return folder / "run", folder / "problems.json"


@pytest.mark.parametrize("command, says", [
    ("accuracy {}", " of 1 problems right"), ("decode {}", "\n1 problems\n"),
    ("sweep {}", "1 problems\n"), ("tree {}", "mean over 1 problems"),
    ("superposition {}", "1 problems\n")])
@pytest.mark.parametrize("more", [[], ["--data"]])
def test_a_run_is_measured_on_the_problems_of_its_file_that_it_was_not_trained_on(
        run_on_a_file, command, says, more, capsys):
    run, file = run_on_a_file
    analyze.main([*command.format(run).split(), *(more and [*more, str(file)])])
    assert says in capsys.readouterr().out


def test_a_note_says_that_a_file_may_hold_what_was_trained_on(run_on_a_file, tmp_path, capsys):
    """The file has moved since the training, so that nobody can tell whether it is the same."""
    run, file = run_on_a_file
    ckpt = torch.load(run / "ckpt.pt")
    moved = ckpt["settings"] | {"data": "problems.json"}
    torch.save(ckpt | {"settings": moved}, tmp_path / "ckpt.pt")
    for path, told in ((tmp_path, True), (run, False)):
        analyze.main(["accuracy", str(path), "--data", str(file)])
        assert ("note: problems.json, which the run learned from, is not here" in
                capsys.readouterr().out) == told


def test_an_intervention_exchanges_thoughts_between_test_problems_only(run_on_a_file):
    with pytest.raises(SystemExit, match="two problems or more are needed"):
        analyze.main(["intervene", str(run_on_a_file[0])])  # one is in the test split


def test_a_problem_that_is_too_long_is_left_out(run_on_a_file, tmp_path, capsys):
    run, file = run_on_a_file
    (tmp_path / "others.json").write_text(file.read_text())
    analyze.main(["accuracy", str(run), "--data", str(tmp_path / "others.json")])
    out = capsys.readouterr().out
    assert " of 29 problems right" in out and "left out 1 of 30 problems" in out


def test_rules_are_not_scored_on_other_problems_than_the_model(run_on_a_file, tmp_path, capsys):
    run, _ = run_on_a_file
    with pytest.raises(SystemExit, match="tested on 1 of 2 problems; `accuracy` compares it with"):
        analyze.main(["shortcuts", str(run)])


@pytest.mark.parametrize("n, told", [(20, True), (19, False)])
def test_a_guess_is_shown_only_if_it_is_one_on_the_problems_that_the_model_had(tmp_path, n, told):
    log = tmp_path / "log.jsonl"
    write_log(log, [{"settings": asdict(complete({"data": "generated", "n_test": 20}))},
                    {"epoch": 1, "stage": 0, "val_accuracy": 0.5}, result(0.5, n=n)])
    row, = rows_of_table([str(log)])
    assert (row[TABLE.index("best guess")] != "") == told
    s, _, found = read_metrics(str(log))
    if told:
        assert 0.5 < best_guess(s, found) <= 1
    else:
        with pytest.raises(ValueError, match="coconut on prontoqa .* tested on 19 of 20 problems"):
            best_guess(s, found)


def test_long_problems_of_gsm8k_are_left_out(real_data, capsys):
    file = real_data / "gsm8k_aug_valid.txt"
    probe = load_probe(str(ROOT / "results" / "gsm8k.pt"), str(file), device="cpu")
    assert "left out 2 of 500 problems" in capsys.readouterr().out and len(probe.examples) == 498
    assert max(map(len, probe.prompts(probe.k))) <= probe.model.config.block_size


def test_steps_of_a_file_that_are_names_are_known_as_names(run_on_a_file):
    assert load_probe(run_on_a_file[0]).names
