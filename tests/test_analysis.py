"""What `python -m analysis` measures, on cases whose right answer is known, and what runs cost."""
import json
import math
import re
import sys
from dataclasses import asdict, replace

import pytest
import torch

import train as training
from analysis import __main__ as analyze
from analysis import bench, graphs, thoughts
from analysis.runs import TABLE, comparison, interval, paired_interval, rows_of_table, runs_of
from analysis.thoughts import Probe, load_probe
from conftest import ROOT, full_pass, tiny_gpt
from data import text_of, word_encoding
from harness import start
from harness.settings import complete, parse
from model import think
from sample import collate_prompts
from tasks import gsm8k, prontoqa, prosqa
from tasks.common import checksum, shortcut_accuracy
from tasks.prosqa import CATEGORIES, Graph, category, shortest_ways
from tasks.record import Example, UserError

pytestmark = pytest.mark.house
TINY = ("--device cpu --n_layer 1 --n_head 1 --n_embd 8 --n_train 40 --n_valid 4 --n_test 20 "
        "--batch_size 8 --epochs 2 --epochs_stage_0 1 --epochs_per_stage 1 --max_new_tokens 8")


@pytest.fixture(scope="module")
def tiny_runs(tmp_path_factory):
    """{task: the folder of a run on its generated problems}"""
    folder = tmp_path_factory.mktemp("runs")
    for task, size in (("prontoqa", ["--hops", "2"]), ("prosqa", ["--nodes", "8"])):
        training.main(["--task", task, "--data", "generated", *size, *TINY.split(),
                       "--out_dir", str(folder / task)])
    return {task: str(folder / task) for task in ("prontoqa", "prosqa")}


def log_line(right, problems="p0", epochs=(), seconds=0, **given):
    """A run of many in a file, with settings, test results and little else."""
    test = {"test_accuracy": right.count("1") / len(right), "test_tokens": 8, "test_n": len(right),
            "test_seconds": 0.02, "seconds": seconds, "test_right": right,
            "test_problems": problems}
    return {"settings": asdict(complete(given)), "epochs": list(epochs), "test": test}


def write_runs(path, **lines):
    path.write_text("".join(json.dumps({"name": name} | line) + "\n"
                            for name, line in lines.items()))
    return str(path)


def test_a_run_is_read_from_its_folder_its_log_and_a_file_of_many(tiny_runs, tmp_path):
    run, many = tiny_runs["prosqa"], tmp_path / "runs.jsonl"
    for name in ("a-seed0", "words/a-seed0", "words/b"):
        analyze.main(["keep", run, name, "--patch", "noise", "--out", str(many)])
    folder, log, kept = ([line[1:] for line in runs_of([path])]
                         for path in (run, f"{run}/metrics.jsonl", f"{many}:words/b"))
    assert folder == log == kept
    line = json.loads(many.read_text().splitlines()[0])
    assert list(line) == ["name", "patch", "commit", "date", "settings", "machine", "threads",
                          "epochs", "test"] and line["patch"] == "noise"
    for pattern, found in (("*", 1), ("words/*", 2), ("words/a-seed?", 1)):
        assert len(runs_of([f"{many}:{pattern}"])) == found
    for wrong, sentence in ((f"{many}:c*", "stands for no run"), (str(many), "is no log of a run")):
        with pytest.raises(SystemExit, match=f"analysis: .*{sentence}"):
            analyze.main(["table", wrong])
    with pytest.raises(SystemExit, match="has a run words/b already"):
        analyze.main(["keep", run, "words/b", "--out", str(many)])


def test_a_table_shows_the_mean_and_the_spread_over_seeds(tmp_path, capsys):
    lines = {}
    for seed, right in enumerate([400, 450, 500, 250]):
        given = {"task": "prosqa", "data": "generated", "seed": seed}
        given |= {"uniform_prob": 0.3, "eot": True} if seed == 3 else {}
        epochs = [{"stage": stage, "val_accuracy": right / 500 - 0.1} for stage in (0, 1)]
        asked = checksum(start.tested_problems(complete(given)))
        lines[f"r{seed}"] = log_line("1" * right + "0" * (500 - right), asked, epochs, 60 * seed,
                                     **given)
    analyze.main(["table", write_runs(tmp_path / "runs.jsonl", **lines) + ":*"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `prosqa` | generated | `coconut` | 3 | 80.0 80.0 | 90.0 | 10.0 | 93.5 | 8.0 | 20 | 1 |",
        "| `prosqa` | generated | `coconut --eot --uniform_prob 0.3` | 1 | 40.0 40.0 | 50.0 |  | "
        "93.7 | 8.0 | 20 | 3 |"]


def test_shortcuts_are_shown_only_on_the_problems_that_the_model_had(tmp_path, capsys):
    given = {"task": "prosqa", "n_test": 20}
    asked = checksum(start.tested_problems(complete(given)))
    file = write_runs(tmp_path / "runs.jsonl", same=log_line("1" * 20, asked, **given),
                      fewer=log_line("1" * 19, **given))
    for name, shown in (("same", True), ("fewer", False)):
        assert bool(rows_of_table([f"{file}:{name}"])[0][TABLE.index("best guess")]) == shown
        analyze.main(["shortcuts", f"{file}:{name}"])
        assert ("| first option |" in capsys.readouterr().out) == shown


def test_a_comparison_pairs_runs_problem_by_problem_also_with_a_patchs(tmp_path, capsys):
    """90 and 81 of 100 are right: 80 by both, 10 only by the first, 1 only by the second."""
    ours, theirs = log_line("1" * 90 + "0" * 10), log_line("1" * 80 + "0" * 10 + "1" + "0" * 9)
    theirs["settings"] |= {"method": "coconut_by_token", "noise": 0.3}
    file = write_runs(tmp_path / "runs.jsonl", ours=ours, theirs=theirs)
    analyze.main(["compare", f"{file}:ours", f"{file}:theirs"])
    p, q = (1 + 1) / 102, (10 + 1) / 102  # Bonett and Price
    half = 1.96 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `coconut` | 1 | 100 | 90.0 |  |  |",
        f"| `coconut --noise 0.3 --method coconut_by_token` | 1 | 100 | 81.0 | -9.0 | "
        f"{100 * (p - q - half):+.1f} to {100 * (p - q + half):+.1f} |"]


def test_intervals_are_those_of_textbooks():
    low, high = paired_interval([0] * 500)
    assert -3.5 / 500 < low < -2.5 / 500 and high == -low  # as by the rule of three
    assert interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)  # Wilson's


@pytest.mark.parametrize("same, n, width", [(False, 80, 1), (True, 40, 2 ** 0.5)])
def test_a_problem_of_a_file_counts_once_over_all_seeds(tmp_path, same, n, width):
    """Two seeds, whose problems are the same if they come from a file; the differences are."""
    file = write_runs(tmp_path / "runs.jsonl", **{
        f"{method}{seed}": log_line(right, "p0" if same else f"p{seed}", method=method, seed=seed)
        for method, right in (("cot", "10" * 20), ("coconut", "11" * 20)) for seed in (0, 1)})
    first, other = comparison([file + ":cot?", file + ":coconut?"])
    assert first[1:3] == [2, n] == other[1:3] and other[3:5] == ["100.0", "+50.0"]
    low, high = (float(end) for end in other[5].split(" to "))
    assert high - low == pytest.approx(22 * width, abs=2)


@pytest.mark.parametrize("change, sentence", [
    ({"seed": 1}, "was not asked"), ({"problems": "p1"}, "was not asked"),
    ({"method": "coconut"}, "is a second run of coconut with seed 0")])
def test_runs_that_were_asked_other_problems_are_not_compared(tmp_path, change, sentence):
    other = log_line(**{"right": "01", "method": "cot"} | change)
    file = write_runs(tmp_path / "runs.jsonl", a=log_line("11"), b=other)
    with pytest.raises(SystemExit, match=f"analysis: .*{sentence}"):
        analyze.main(["compare", f"{file}:a", f"{file}:b"])


def test_a_curve_is_drawn_and_a_missing_matplotlib_is_named_in_a_sentence(
        tiny_runs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    command = ["curve", *tiny_runs.values(), "--out", str(tmp_path / "curve.png")]
    analyze.main(command)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="analysis: .*pip install matplotlib"):
        analyze.main(command)


def test_every_shortcut_bets_on_its_answer():
    tom, rex = "Tom is a impus.", "Tom is a scrompus."
    asked = ("Tom is a terpus. Every terpus is a impus. Rex is a scrompus. Every terpus is a "
             "jimpus. Every jimpus is a scrompus. Is Tom a impus or scrompus?")
    assert [*prosqa.guesses(asked).values()] == [tom, tom, rex, None, tom, rex]
    asked = ("Vumpuses are not wooden. Each gorpus is a vumpus. Every impus is wooden. Sally is a "
             "gorpus. True or false: Sally is wooden.")
    assert [*prontoqa.guesses(asked).values()] == ["True", "False", "True", "False"]
    asked = "Ivy has 30 cards. Ivy buys two boxes with 4 cards in each box. How many?"
    assert [*gsm8k.guesses(asked).values()] == ["4", "30", "36", "240", "120", "26"]
    even = Example("Tom is a impus. Rex is a scrompus. Is Tom a impus or scrompus?", [], tom)
    assert shortcut_accuracy("prosqa", [even] * 3)["more ancestors"] == 0.5  # it has no opinion


# Tom - apus - bpus - cpus and Eva - dpus; Tom reaches cpus by a longer way too, over epus.
SIX = Example("Tom is a apus. Every apus is a bpus. Every bpus is a cpus. Tom is a epus. Every "
              "epus is a fpus. Every fpus is a bpus. Eva is a dpus. Is Tom a cpus or dpus?",
              ["Tom is a apus.", "Every apus is a bpus.", "Every bpus is a cpus."],
              "Tom is a cpus.")


@pytest.mark.parametrize("steps, answer, kind", [
    ("Every bpus is a cpus.\n", "c", "correct path"),  # two steps were thought
    (" epus fpus bpus cpus", "c", "longer path"), ("", "c", "correct label"),
    ("", "d", "incorrect label"), (" apus bpus", "d", "wrong target"),
    (" apus cpus", "c", "hallucination"),  # no such edge
    ("Tom is a apus.\nEvery bpus is a cpus.\n", "c", "hallucination"),  # a gap
    ("Eva is a dpus.\n", "d", "hallucination")])  # not where Tom can be
def test_an_answer_falls_into_its_category(steps, answer, kind):
    assert category(SIX, f"{steps}### Tom is a {answer}pus.") == kind and kind in CATEGORIES


def test_a_graph_is_what_the_question_tells():
    graph = Graph(SIX)
    assert graph.below("Tom") == {"Tom": 0, "apus": 1, "epus": 1, "bpus": 2, "fpus": 2, "cpus": 3}
    assert [graph.height(node) for node in ("cpus", "apus", "epus", "dpus")] == [0, 2, 3, 0]
    assert shortest_ways(graph) == {"Tom", "apus", "bpus", "cpus"}


def probe_of(n=12, k=2, steps="names", **settings):
    """An untrained model, with problems of ProsQA."""
    s = complete({"task": "prosqa", "data": "generated", "nodes": 8, "steps": steps, "eot": True,
                  "max_latent_stage": k, "max_new_tokens": 12} | settings)
    examples = start.tested_problems(s)[:n]
    enc = word_encoding(map(text_of, examples))
    return Probe(tiny_gpt(vocab_size=enc.n_vocab, block_size=256), enc, examples, s, k)


@pytest.mark.parametrize("names, k, lead", [(False, 0, "{} is a"), (False, 2, "Every"),
                                            (True, 0, " {}"), (True, 2, "")])
def test_a_nodes_value_is_the_probability_of_its_name_after_the_words_that_lead_to_it(
        names, k, lead):
    probe = probe_of(1, steps="names" if names else "sentences")
    for example in (probe.examples[0], SIX):  # whose names are unseen words of several tokens
        probe.examples = [example]
        given = probe.prompts(k)[0] + probe.enc.encode_ordinary(lead.format(Graph(example).root))
        for node, value in graphs.node_values(probe, example, k).items():
            ids, expected = list(given), 1
            for token in probe.enc.encode_ordinary(" " + node):
                hidden, _ = think(probe.model, *collate_prompts(probe.model, [ids], probe.enc), 1)
                expected *= probe.model.lm_head(hidden[0, -1]).softmax(dim=0)[token].item()
                ids.append(token)
            assert math.isclose(value, expected, rel_tol=1e-3)


def test_an_intervention_feeds_what_its_name_says_and_the_own_thoughts_change_nothing(monkeypatch):
    probe, fed, put_in = probe_of(k=3), [], thoughts.put_in
    monkeypatch.setattr(thoughts, "put_in", lambda values: fed.append(values))
    names = [row["thoughts"] for row in thoughts.intervene(probe)["rows"]]
    words = ("embedding of the nearest token", "the same, unless that is ###",
             "likewise, of another problem")
    fed, own = dict(zip([name for name in names if name not in words], fed)), probe.thoughts(3)
    assert own.shape == (12, 3, 32) and torch.equal(fed["intact"], own)
    assert probe.written(3, put_in(own)) == probe.written(3)
    assert probe.written(3, put_in(fed["of another problem"])) != probe.written(3)
    other = [(own == thought).all(dim=(1, 2)).nonzero().item() for thought in
             fed["of another problem"]]
    assert sorted(other) == list(range(12)) and all(i != j for i, j in enumerate(other))
    frozen = fed["frozen from thought 2 on"]
    assert torch.equal(frozen[:, :2], own[:, :2]) and torch.equal(frozen[:, 2], own[:, 1])
    noise = fed["noise of the same norm"]
    torch.testing.assert_close(noise.norm(dim=-1), own.norm(dim=-1))


def test_words_take_the_place_of_thoughts_but_of_the_spared_one():
    model = probe_of().model
    weight = torch.nn.init.orthogonal_(model.wte.weight.data)  # an embedding reads as itself
    given = 2 * weight[[7, 8, 7]]
    assert torch.equal(thoughts.word_in(model)(None)(0, given), given / 2)
    assert torch.equal(thoughts.word_in(model, 8)(None)(0, given)[1], given[1])
    assert torch.equal(thoughts.word_in(model, 8)(None)(0, given)[::2], given[::2] / 2)
    assert torch.equal(thoughts.word_in(model, others=True)(None)(0, given), given.roll(1, 0) / 2)


def test_an_answer_counts_without_the_mark_that_a_thought_may_stand_for():
    probe = probe_of()
    answers = [example.answer for example in probe.examples]
    assert all(probe.right([(f"### {answer}", 1) for answer in answers]))
    assert all(probe.right([(answer, 1) for answer in answers]))
    assert not any(probe.right([(f" zumpus {answer}", 1) for answer in answers]))


def test_the_states_before_pauses_are_those_that_would_be_fed_back():
    probe = probe_of(4, k=3, method="pause_as_thought")
    for example, states in zip(probe.examples, probe.thoughts(3, or_pauses=True)):
        ids, = replace(probe, examples=[example]).prompts(3)
        hidden = full_pass(probe.model, probe.model.embed(torch.tensor([ids])))[0]
        torch.testing.assert_close(states, hidden[-5:-2], atol=1e-5, rtol=1e-5)  # <eot> is last
    with pytest.raises(UserError, match="pause_as_thought at stage 3 has no thoughts"):
        thoughts.intervene(probe)


def test_thoughts_that_spell_words_are_found_near_them(monkeypatch):
    """The first is the sum of the frontier's embeddings, the second step 2's first token."""
    probe = probe_of(20)
    weight = torch.nn.init.normal_(probe.model.wte.weight.data)
    torch.nn.functional.normalize(weight, dim=1, out=weight)

    def spelled(self, k, or_pauses):
        words = [[Graph(e).children[Graph(e).root], [e.steps[1]]] for e in self.examples]
        return torch.stack([torch.stack([sum(weight[self.enc.encode_ordinary(" " + word)[0]]
                                             for word in some) for some in of]) for of in words])

    monkeypatch.setattr(Probe, "thoughts", spelled)
    row = thoughts.decode(probe)["rows"][1]
    assert row["step 2"] == 1 and row["step 1"] == 0
    probe.s.steps = "sentences"  # then the first thought is of the nodes one hop away
    row = graphs.tree(probe)["superposition"][0]
    mean = {kind: float(cell.split()[0]) for kind, cell in row.items() if kind != "thought"}
    assert mean["frontier"] > 0.4 > 0.2 > mean["not reachable"] and mean["optimal"] > 0.4


def test_only_an_answer_that_names_no_option_is_written_again(monkeypatch):
    question = "Tom is a apus. Eva is a bpus. Is Tom a apus or bpus?"
    examples = [Example(question, ["Tom", "apus"], f"Tom is a {o}pus.") for o in "aab"]
    probe = Probe(tiny_gpt(), None, examples, complete({"task": "prosqa", "method": "cot"}), 0)
    tries = iter([["### Tom is a bpus.", "Tom cpus### Tom is a cpus.", "Tom"],
                  ["### Tom is a apus.", "### Tom is a Tom."], ["### Tom is a apus."], [], []])
    asked = []
    monkeypatch.setattr(Probe, "written", lambda self, k: asked.append(self.examples) or [
        (text, 2) for text in next(tries)])
    rows = thoughts.retry(probe, 4)["rows"]
    assert asked[:4] == [examples, examples[1:], examples[2:], []]
    assert [row["accuracy"] for row in rows] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert [row["neither"] for row in rows] == pytest.approx([2 / 3, 1 / 3, 0, 0, 0])
    assert rows[0]["with a coin"] == pytest.approx(1 / 3) and rows[-1]["tokens"] == 4


def test_tokens_by_chance_are_as_probable_as_the_model_finds_them():
    logits = torch.randn(5)
    drawn = thoughts.gumbel(1)(None, None, logits.expand(20_000, 5)).argmax(dim=-1)
    share = drawn.bincount(minlength=5) / 20_000
    torch.testing.assert_close(share, logits.softmax(dim=-1), atol=0.02, rtol=0)


@pytest.mark.parametrize("command, says", [
    ("sweep", "| hallucination |"), ("tree --index 1", "| optimal |"), ("decode", "| step 1 |"),
    ("intervene --data balanced", "| zero |"), ("retry --most 1", "| neither |"),
    ("accuracy", "% of 5 problems right")])
def test_a_command_prints_and_keeps_its_result(tiny_runs, tmp_path, capsys, command, says):
    out = tmp_path / "measures.jsonl"
    name, *options = command.split()
    for _ in range(2):
        analyze.main([name, tiny_runs["prosqa"], "--n", "5", *options, "--out", str(out)])
    assert says in capsys.readouterr().out
    first, second = map(json.loads, out.read_text().splitlines())
    assert first == second and first["name"] == f"{name}/prosqa" and first["result"]["n"] == 5
    assert list(first) == ["name", "command", "commit", "date", "result"]


@pytest.mark.parametrize("command, sentence", [
    ("tree {prontoqa}", "does not end as ProsQA's"), ("tree {prosqa} --n 5 --index 5", "be 0 to 4"),
    ("intervene {prosqa} --n 1", "two problems or more"), ("accuracy {file}", "cannot read"),
    ("table {file}", "is no log of"), ("bench --max_steps 3", "--max_steps changes nothing")])
def test_a_wrong_request_is_refused_in_a_sentence(tiny_runs, command, sentence):
    with pytest.raises(SystemExit, match=f"analysis: .*{sentence}"):
        analyze.main(command.format(**tiny_runs, file=__file__).split())


def test_a_slim_checkpoint_has_the_same_weights_and_the_accuracy_of_the_run(
        tiny_runs, tmp_path, capsys):
    out = str(tmp_path / "ckpt.pt")
    analyze.main(["slim", tiny_runs["prontoqa"], "--out", out])
    whole, small = start.load_run(tiny_runs["prontoqa"] + "/ckpt.pt"), start.load_run(out)
    torch.testing.assert_close(small[1].state_dict(), whole[1].state_dict(), atol=1e-3, rtol=1e-3)
    assert small[0]["settings"] == whole[0]["settings"] and small[0]["run"] == whole[0]["run"]
    analyze.main(["accuracy", str(tmp_path)])
    (*_, test), = runs_of([tiny_runs["prontoqa"]])
    assert f"{test['test_accuracy']:.1%} of 20 problems right" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="train.py: .* no optimizer .* --init"):
        training.main(["--resume", "--out_dir", str(tmp_path)])


@pytest.mark.parametrize("name, least", [
    ("prontoqa-balanced", 0.97), ("prosqa-balanced", 0.94), ("gsm8k", 0.94),
    ("prosqa-nodes16", 0.85), ("prontoqa-5hops", 0.95), ("prosqa-28nodes", 0.97)])
def test_a_shipped_model_solves_its_problems_and_needs_its_thoughts(name, least):
    probe = load_probe(str(ROOT / "results" / f"{name}.pt"), n=60, device="cpu")
    rows = {row["thoughts"]: row["accuracy"] for row in thoughts.intervene(probe)["rows"]}
    assert rows["intact"] >= least - 0.04 and rows["of another problem"] < 0.7


def test_the_parts_of_a_step_add_up_at_every_stage_of_the_run(monkeypatch):
    """icot changes its stage within an epoch, here in the middle of 16 steps."""
    monkeypatch.setattr(bench, "STEPS", 4)
    options = ("--task prosqa --method icot --icot_tokens 2 --icot_all_beyond 3 --epochs 3 "
               "--n_layer 1 --n_train 64 --n_valid 4 --batch_size 4 --epochs_stage_0 1 "
               "--device cpu")
    rows = bench.measure(complete(parse(options.split())))
    assert [row["steps of a run"] for row in rows] == [24, 8, 8, 8]
    for row in rows:
        parts = [row[part] for part in bench.PARTS]
        assert min(value for name, value in row.items() if name != "stage") > 0
        assert sum(parts) == pytest.approx(row["step"])


def test_the_block_of_the_page_on_thoughts_prints_what_the_page_says(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "thoughts.md").read_text()
    code, told = re.search(r"```python\n(.*?)```\n\nIt prints `(.*?)`", page, re.S).groups()
    exec(code, {})
    assert capsys.readouterr().out == told + "\n"
