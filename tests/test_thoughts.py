"""What `python -m analysis` sees in thoughts, on cases whose right answer is known."""
import json
import math
import re

import pytest
import torch

from analysis import __main__ as analyze
from analysis import graphs, thoughts
from analysis.thoughts import Probe
import train as training
from conftest import ROOT, tiny_gpt
from curriculum import Curriculum
from data import text_of, word_encoding
from model import think
from sample import collate_prompts
from tasks.common import problems
from tasks.prosqa import CATEGORIES, Graph, category, shortest_ways
from tasks.record import Example
from test_analyze import TINY

pytestmark = pytest.mark.house

# Tom - apus - bpus - cpus and Eva - dpus; Tom reaches cpus by a longer way too, over epus.
SIX = Example("Tom is a apus. Every apus is a bpus. Every bpus is a cpus. Tom is a epus. Every "
              "epus is a fpus. Every fpus is a bpus. Eva is a dpus. Is Tom a cpus or dpus?",
              ["Tom is a apus.", "Every apus is a bpus.", "Every bpus is a cpus."],
              "Tom is a cpus.")


@pytest.mark.parametrize("written, expected", [
    ("Tom is a apus.\nEvery apus is a bpus.\nEvery bpus is a cpus.\n### Tom is a cpus.",
     "correct path"),
    ("Every bpus is a cpus.\n### Tom is a cpus.", "correct path"),  # two steps were thought
    ("Tom is a epus.\nEvery epus is a fpus.\nEvery fpus is a bpus.\nEvery bpus is a cpus.\n### Tom "
     "is a cpus.", "longer path"),
    ("### Tom is a cpus.", "correct label"),
    ("### Tom is a dpus.", "incorrect label"),
    ("", "incorrect label"),
    ("Tom is a apus.\nEvery apus is a bpus.\n### Tom is a dpus.", "wrong target"),
    ("Tom is a apus.\nEvery apus is a dpus.\n### Tom is a dpus.", "hallucination"),  # no such edge
    ("Tom is a apus.\nEvery bpus is a cpus.\n### Tom is a cpus.", "hallucination"),  # a gap
    ("Eva is a dpus.\n### Tom is a dpus.", "hallucination"),  # not where Tom can be
    (" Tom apus bpus cpus### Tom is a cpus.", "correct path"),  # steps that are names
    (" cpus### Tom is a cpus.", "correct path"),
    (" epus fpus bpus cpus### Tom is a cpus.", "longer path"),
    (" apus bpus### Tom is a dpus.", "wrong target"),
    (" apus cpus### Tom is a cpus.", "hallucination"),
    (" dpus### Tom is a dpus.", "hallucination"),
])
def test_an_answer_falls_into_its_category(written, expected):
    assert category(SIX, written) == expected and expected in CATEGORIES


def test_a_graph_is_what_the_question_tells():
    graph = Graph(SIX)
    assert (graph.root, graph.target, graph.options) == ("Tom", "cpus", ["cpus", "dpus"])
    assert graph.below("Tom") == {"Tom": 0, "apus": 1, "epus": 1, "bpus": 2, "fpus": 2, "cpus": 3}
    assert [graph.height(node) for node in ("cpus", "bpus", "apus", "epus", "dpus")] == [
        0, 1, 2, 3, 0]
    assert shortest_ways(graph) == {"Tom", "apus", "bpus", "cpus"}
    assert graph.leads_to_target("epus") and not graph.leads_to_target("dpus")
    circle = SIX._replace(question="Every cpus is a bpus. " + SIX.question)
    with pytest.raises(ValueError, match="the rules below apus lead round in a circle"):
        Graph(circle).height("apus")


def probe_of(n=12, k=2, **options):
    """An untrained model, with problems of ProsQA."""
    examples = [Example(r["question"], r["steps"], r["answer"])
                for r in problems("prosqa", n, 0, nodes=8)]
    enc = word_encoding(map(text_of, examples))
    model = tiny_gpt(vocab_size=enc.n_vocab, block_size=256, **options)
    return Probe(model, enc, examples, "prosqa", Curriculum(max_latent_stage=k), k, 12, 5)


def test_a_nodes_value_is_the_probability_of_its_name():
    """A model that is made to give each token the same probabilities everywhere: a value is then
    their product over the tokens of a name."""
    probe = probe_of()
    probe.examples = probe.examples[:3] + [SIX]  # its names are unseen words of several tokens
    with torch.no_grad():
        probe.model.ln_f.weight.zero_()
        probe.model.ln_f.bias.normal_()
        p = (probe.model.wte.weight @ probe.model.ln_f.bias).softmax(dim=0)
    for k in (0, 1, 2):
        for example, values in zip(probe.examples, graphs.node_values(probe, probe.examples, k)):
            assert values.keys() == {child for some in Graph(example).children.values()
                                     for child in some}
            for node, value in values.items():
                ids = probe.enc.encode_ordinary(" " + node)
                assert math.isclose(value, math.prod(p[ids].tolist()), rel_tol=1e-4)
    assert len(probe.enc.encode_ordinary(" bpus")) > 1


def test_a_node_is_valued_after_the_words_that_lead_to_it():
    """The last word of the forced text decides; checked against the model's own probabilities."""
    probe = probe_of()
    example = probe.examples[0]
    root = Graph(example).root
    for k, lead, probe.names in ((0, f"{root} is a", False), (2, "Every", False),
                                 (0, f" {root}", True), (2, "", True)):
        ids = probe.prompts(k)[0] + probe.enc.encode_ordinary(lead)
        hidden, _ = think(probe.model, *collate_prompts(probe.model, [ids], probe.enc), start=1)
        p = probe.model.lm_head(hidden[0, -1]).softmax(dim=0)
        for node, value in graphs.node_values(probe, [example], k)[0].items():
            token, = probe.enc.encode_ordinary(" " + node)
            assert math.isclose(value, p[token].item(), rel_tol=1e-4)


def test_replacing_thoughts_by_themselves_changes_no_answer():
    probe = probe_of()
    own = probe.thoughts(2)
    assert own.shape == (12, 2, 32)
    intact = probe.written(2)
    assert probe.written(2, lambda rows: lambda k, thought: thought) == intact
    assert probe.written(2, thoughts.put_in(own)) == intact
    assert probe.written(2, thoughts.put_in(0 * own)) != intact


def test_the_thoughts_of_a_twin_change_no_answer():
    """Every problem twice: exchanging thoughts between twins must leave all as it is."""
    probe = probe_of(6)
    probe.examples = [example for example in probe.examples for _ in range(2)]
    twin = [i ^ 1 for i in range(12)]
    other = probe.thoughts(2)[twin]
    assert probe.written(2, thoughts.put_in(other)) == probe.written(2)


def test_frozen_thoughts_change_no_more():
    probe, seen = probe_of(k=3), []
    freeze = thoughts.freeze(1)

    def spy_of(rows):
        on_thought = freeze(rows)

        def spy(k, thought):
            seen.append((k, thought, on_thought(k, thought)))
            return seen[-1][2]
        return spy
    probe.batch_size = 12
    probe.written(3, spy_of)
    (_, first, kept_0), (_, second, kept_1), (_, third, kept_2) = seen
    assert torch.equal(kept_0, first) and torch.equal(kept_1, second)
    assert torch.equal(kept_2, second) and not torch.equal(kept_2, third)


def test_no_thought_is_exchanged_with_itself():
    for n in (2, 3, 50):
        order = thoughts.derangement(n, thoughts.random.Random(n))
        assert sorted(order) == list(range(n)) and all(i != j for i, j in enumerate(order))
    with pytest.raises(ValueError, match="two problems or more"):
        thoughts.derangement(1, thoughts.random.Random(0))


@pytest.mark.parametrize("names", [False, True])
def test_a_thought_that_is_a_sum_of_embeddings_lies_near_them(monkeypatch, names):
    """Thoughts that are the sum of the frontier's embeddings: nearest to those, not to others."""
    probe = probe_of(20, k=2 + names)
    probe.names = names
    torch.nn.init.normal_(probe.model.wte.weight)

    def frontier(probe, k):
        rows = []
        for example in probe.examples:
            reached = Graph(example).below(Graph(example).root)
            rows.append([sum(probe.model.wte.weight[probe.enc.encode_ordinary(" " + node)[0]]
                             for node, hops in reached.items() if hops == step + 1 - names)
                         for step in range(k)])
        return torch.stack([torch.stack(row) for row in rows])

    monkeypatch.setattr(Probe, "thoughts", frontier)
    rows = graphs.superposition(probe)["rows"]
    assert not names or rows.pop(0)["frontier"] is None  # the first thought is of who is asked
    for row in rows:
        assert row["frontier"]["mean"] > 0.4 > 0.2 > row["not reachable"]["mean"]
        assert row["optimal"]["mean"] > 0.4
        assert row["reachable"]["nodes"] >= row["frontier"]["nodes"] >= row["optimal"]["nodes"] > 0


def test_a_thought_that_is_a_word_of_the_proof_is_counted_for_it(monkeypatch):
    """Thoughts that are names on the way: the second, then the first; the third is the answer's."""
    records = problems("prosqa", 20, 0, nodes=8, steps="names")
    probe = probe_of(20, k=3)
    probe.examples = [Example(r["question"], r["steps"], r["answer"]) for r in records]
    with torch.no_grad():
        torch.nn.functional.normalize(torch.nn.init.normal_(probe.model.wte.weight), dim=1,
                                      out=probe.model.wte.weight)

    def spelled(probe, k):
        return torch.stack([probe.model.wte.weight[torch.tensor(
            [probe.enc.encode_ordinary(text)[0]
             for text in (" " + example.steps[1], " " + example.steps[0], "### ")])]
            for example in probe.examples])

    monkeypatch.setattr(Probe, "thoughts", spelled)
    for row, part in zip(thoughts.decode(probe)["rows"], ("step 2", "step 1", "answer")):
        assert {name for name in row if name != "thought" and row[name] == 1} == {part}
        assert all(row[name] in (0, 1) for name in row if name != "thought")
        assert list(row)[:3] + list(row)[-1:] == ["thought", "step 1", "step 2", "answer"]


def test_only_an_answer_that_names_no_option_is_written_again(monkeypatch):
    def names(option):
        return Example("Tom is a apus. Eva is a bpus. Is Tom a apus or bpus?", ["Tom", "apus"],
                       f"Tom is a {option}.")

    probe = Probe(tiny_gpt(), None, [names("apus"), names("apus"), names("bpus")], "prosqa",
                  Curriculum("cot"), 0, 9)
    tries = iter([["### Tom is a bpus.", "Tom cpus### Tom is a cpus.", "Tom"],
                  ["### Tom is a apus.", "### Tom is a Tom."], ["### Tom is a apus."]])
    asked = []
    monkeypatch.setattr(Probe, "written", lambda self, k: asked.append(self.examples) or [
        (text, 2) for text in next(tries)])
    rows = thoughts.retry(probe, 4)["rows"]
    assert asked == [probe.examples, probe.examples[1:], probe.examples[2:]]
    assert [row["accuracy"] for row in rows] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert [row["neither"] for row in rows] == pytest.approx([2 / 3, 1 / 3, 0, 0, 0])
    assert rows[0]["with a coin"] == pytest.approx(1 / 3) and rows[-1]["tokens"] == 4


def test_a_shipped_model_names_neither_option_as_often_as_was_measured():
    probe = thoughts.load_probe(str(ROOT / "results/prosqa-nodes16-cot.pt"), device="cpu")
    row, = thoughts.retry(probe, 0)["rows"]
    file = ROOT / "results" / "words" / "retry" / "nodes16-cot-seed0.json"
    measured = json.loads(file.read_text())["retry"]["rows"][0]
    for name in ("accuracy", "neither", "with a coin", "tokens"):
        assert row[name] == pytest.approx(measured[name]), name


def test_tokens_that_are_written_by_chance_are_as_probable_as_the_model_finds_them():
    model = tiny_gpt(vocab_size=5)
    hidden = torch.randn(1, 32).expand(20_000, 32)
    expected = model.lm_head(hidden)[0].softmax(dim=-1)
    with thoughts.by_chance(model, seed=1):
        drawn = model.lm_head(hidden).argmax(dim=-1).bincount(minlength=5) / len(hidden)
    torch.testing.assert_close(drawn, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(model.lm_head(hidden)[0].softmax(dim=-1), expected)  # no noise left


def test_the_interval_is_wilsons():
    low, high = thoughts.interval(8, 10)  # 0.490 and 0.943 in the textbooks
    assert abs(low - 0.4902) < 1e-3 and abs(high - 0.9433) < 1e-3
    assert thoughts.interval(0, 10)[0] == 0 and thoughts.interval(10, 10)[1] == 1


@pytest.fixture(scope="module")
def prosqa_run(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("prosqa") / "run"
    training.main(["--task", "prosqa", "--data", "generated", "--nodes", "8", "--uniform_prob",
                   "0.3", *TINY.split(), "--n_train", "200", "--n_test", "20", "--out_dir",
                   str(out_dir)])
    return out_dir


@pytest.mark.parametrize("command, says", [
    ("sweep {} --n 20", "| hallucination |"), ("tree {} --n 20 --index 1", "on a shortest way"),
    ("superposition {} --n 20 --index 19", "| not reachable |"),
    ("intervene {} --n 20", "| intact |"), ("intervene {} --data balanced --n 5", "| zero |"),
    ("decode {} --n 20", "thought 1  norm"), ("retry {} --n 20 --most 1", "| neither |")])
def test_a_command_prints_draws_and_keeps_its_result(prosqa_run, tmp_path, capsys, command, says):
    pytest.importorskip("matplotlib", reason="only the pictures need matplotlib")
    analyze.main(command.format(prosqa_run).split() + ["--out", str(tmp_path / "x")])
    assert says in capsys.readouterr().out
    with open(tmp_path / "x.json") as file:
        kept = json.load(file)
    result, = [value for name, value in kept.items() if name not in ("tree", "cosines")]
    assert result["n"] in (5, 20)
    if command.split()[0] in ("tree", "superposition", "intervene"):
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_says_what_the_answers_are(prosqa_run, capsys):
    analyze.main(["accuracy", str(prosqa_run)])
    out = capsys.readouterr().out
    shares = {name: float(re.search(rf"(\S+)%  {name}\n", out)[1]) for name in CATEGORIES}
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize("command", ["tree", "superposition"])
@pytest.mark.parametrize("steps", ["names", "sentences"])
def test_steps_of_a_file_are_analysed_as_generated_ones(
        prosqa_run, tmp_path, capsys, command, steps):
    """A run on a file that has the weights of a run on generated problems, looked at with problems
    of each source, in which steps may be written otherwise than in training."""
    file, other = tmp_path / "problems.json", tmp_path / "others.json"
    file.write_text(json.dumps(problems("prosqa", 30, 1, nodes=8, steps=steps)))
    other.write_text(json.dumps(problems("prosqa", 4, 2, nodes=8)))
    training.main(["--task", "prosqa", "--data", str(file), *TINY.split(), "--max_steps", "1",
                   "--out_dir", str(tmp_path / "run")])
    ckpt = torch.load(prosqa_run / "ckpt.pt")
    settings = torch.load(tmp_path / "run" / "ckpt.pt")["settings"]
    drawn, read = {"steps": steps}, {"data": str(file), "steps": settings["steps"]}
    for name, change in (("drawn.pt", drawn), ("read.pt", read)):
        torch.save(ckpt | {"settings": ckpt["settings"] | change}, tmp_path / name)
    capsys.readouterr()
    for data in (str(other), "generated"):
        printed = []
        for name in ("drawn.pt", "read.pt"):
            analyze.main([command, str(tmp_path / name), "--data", data, "--n", "4"])
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]


@pytest.mark.parametrize("args, message", [
    ("tree {prontoqa}", "tree is for prosqa, the run of prontoqa"),
    ("superposition {prontoqa}", "superposition is for prosqa"),
    ("tree {prosqa} --n 5 --index 5", "--index must be 0 to 4"),
    ("intervene {prosqa} --n 1", "two problems or more are needed"),
])
def test_a_wrong_request_is_refused_in_a_sentence(prosqa_run, args, message):
    shipped = ROOT / "results" / "prontoqa-balanced.pt"
    with pytest.raises(SystemExit, match=f"analysis: {message}"):
        analyze.main(args.format(prosqa=prosqa_run, prontoqa=shipped).split())


@pytest.mark.parametrize("name", [
    "prontoqa", "prontoqa-balanced", "prosqa", "prosqa-balanced", "prontoqa-sentences", "gsm8k"])
def test_the_thoughts_that_search_are_needed(name):
    """Other thoughts leave chance, or another problem's answer, or what is easy without."""
    probe = thoughts.load_probe(str(ROOT / "results" / f"{name}.pt"), n=60, device="cpu")
    accuracy = {row["thoughts"]: row["accuracy"] for row in thoughts.intervene(probe)["rows"]}
    assert accuracy["intact"] > 0.9
    for other in ("zero", "noise of the same norm", "mean over the problems", "of another problem"):
        assert accuracy[other] < 0.7


def test_the_measurement_of_the_docs_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "thoughts.md").read_text(), re.S)
    exec(code, {})
    assert re.fullmatch(r"\{'right': \d+\.\d+, 'wrong': \d+\.\d+\}\n", capsys.readouterr().out)


def test_a_thought_can_be_read_as_the_step_that_it_replaces():
    """Balanced ProsQA: thoughts 2 and 3 are the second and the third name."""
    probe = thoughts.load_probe(str(ROOT / "results/prosqa-balanced.pt"), n=100, device="cpu")
    rows = thoughts.decode(probe)["rows"]
    assert rows[1]["step 2"] > 0.7 and rows[2]["step 3"] > 0.9
