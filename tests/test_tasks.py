"""Generated problems are sound, are drawn like the official ones, and never leave their split.

The checkers below read a record's text, so they share no mistake with the generators, and must
accept official problems, too. A new task needs none: the tests over TASKS say what it must keep.
"""
import functools
import json
import re
import zlib
from fractions import Fraction  # noqa: F401 (in formulas)
from math import inf, sqrt
from statistics import mean, pstdev
from types import SimpleNamespace

import pytest

from tasks import TASKS, common, prontoqa, prosqa, sizes_of, tasks_with
from tasks.record import Size, is_correct

problems = functools.cache(common.problems)  # several tests look at the same problems


def usual_size(task):
    sizes = TASKS[task].SIZES
    return {name: TASKS[task].SCRATCH.get(name, sizes[name].official) for name in sizes}


@pytest.mark.parametrize("task", TASKS)
def test_a_problem_is_text_and_has_no_more_steps_than_stages(task):
    size, stages = usual_size(task), TASKS[task].SCRATCH["max_latent_stage"]
    for record in problems(task, 50, 0, balanced=task in tasks_with("BALANCED"), **size):
        example = common.to_example(record, task)  # a UserError if it is not three texts
        assert len(example.steps) <= (stages(size) if callable(stages) else stages)
        assert is_correct("### " + example.answer, example.answer)


@pytest.mark.parametrize("task", TASKS)
def test_equal_arguments_give_equal_problems_and_others_give_others(task):
    size = usual_size(task)
    base = common.problems(task, 20, 1, **size)
    assert common.problems(task, 10, 1, **size) == base[:10], "more problems only add to fewer"
    others = [{"seed": 2}, {"epoch": 1}, {"split": "valid"}, {"split": "test"}]
    drawn = [base, *(problems(task, 20, **{"seed": 1} | other | size) for other in others)]
    assert len({*map(json.dumps, drawn)}) == 5


@pytest.mark.parametrize("task", TASKS)
def test_no_two_splits_share_a_problem_nor_one_with_its_facts_in_another_order(task):
    seen = {}
    for split in ("train", "valid", "test"):
        for record in problems(task, 150, 0, split, **usual_size(task)):
            *facts, asked = record["question"].split(". ")
            assert seen.setdefault(frozenset(facts or [asked]), split) == split
            assert common.split_of(". ".join([*facts[::-1], asked])) == split


@pytest.mark.house
@pytest.mark.parametrize("task", TASKS)
def test_a_docstring_shows_what_the_generator_returns(task):
    text = " ".join((TASKS[task].__doc__ or "").split())
    for call in re.findall(r"problems\(\".*?\)", text):
        assert json.dumps(eval(call, {"problems": common.problems})[0]) in text


def test_a_size_that_clashes_with_another_or_with_an_argument_is_refused():
    size = Size(8, range(9), "0..8")
    one, two = (SimpleNamespace(SIZES={"depth": size._replace(official=n)}) for n in (8, 7))
    assert sizes_of({"one": one, "two": one}) == {"depth": (size, ["one", "two"])}
    with pytest.raises(ValueError, match="two and one have different sizes called depth"):
        sizes_of({"one": one, "two": two})
    with pytest.raises(ValueError, match="toy has a size called seed"):
        sizes_of({"toy": SimpleNamespace(SIZES={"seed": size})})


@pytest.mark.house
@pytest.mark.parametrize("arguments, sentence", [
    ({"split": "dev"}, "split must be train, valid or test (got 'dev')"),
    ({"hops": 9}, "hops must be 1..6, as the generator has only 17 concept names (got 9)"),
    ({"hops": 6, "balanced": True}, "hops must be 1..5 if balanced"), ({"hops": 2.0}, "1..6"),
    ({"nodes": 28}, "nodes is no size of prontoqa, which has hops, wording"),
    ({"task": "gsm8k", "balanced": True}, "balanced must be off for gsm8k: only prontoqa and")])
def test_a_bad_argument_gets_a_helpful_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        common.problems(**{"task": "prontoqa", "n": 1, "seed": 0, **arguments})


def sentences_of(record):
    *facts, asked = record["question"].split(". ")
    assert len({*facts}) == len(facts), "a sentence occurs twice"
    return facts, asked


def check_prosqa(record, hops=range(3, 7), balanced=False):
    graph = prosqa.Graph(common.to_example(record, "prosqa"))
    facts, _ = sentences_of(record)
    assert all(re.fullmatch("(Every [a-z]+|[A-Z][a-z]+) is a [a-z]+", fact) for fact in facts)
    names = {*graph.children, *graph.concepts}
    for name in names:
        assert name[0].isupper() == (name not in graph.concepts), "only entities lack parents"
        assert not any(name in graph.below(child) for child in graph.children.get(name, ()))
    reach = graph.below(graph.root)
    assert [option for option in graph.options if option in reach] == [graph.target], "one of two"
    assert not graph.children.keys() & {*graph.options}, "options are leaves"
    path = [re.search(r"(\w+) is a (\w+)", step).groups() for step in record["steps"]]
    assert {*record["steps"]} <= {fact + "." for fact in facts}
    assert record["answer"] == f"{path[0][0]} is a {path[-1][1]}." and path[0][0] == graph.root
    assert all(before[1] == after[0] for before, after in zip(path, path[1:]))
    assert len(path) == reach[graph.target] and len(path) in hops, "a shortest path"
    name = record["idx_to_symbol"]
    assert sorted(name) == sorted(names)
    assert {(name[parent], name[child]) for parent, child in record["edges"]} == {
        (parent, child) for parent in graph.children for child in graph.children[parent]}
    assert all(parent < child for parent, child in record["edges"]), "indices are topological"
    root, target, distractor = (name[record[key]] for key in ("root", "target", "neg_target"))
    assert (root, target) == (graph.root, graph.target) and {target, distractor} == {*graph.options}
    rival = graph.below(name[1 - record["root"]])  # the other whom a problem may ask about
    assert rival[distractor] == len(path) or not balanced, "both options are at one depth"


def read_prontoqa(record):
    """{meaning: sentence} of who is what, who has what, what the entity is; its name; the query."""
    facts, asked = sentences_of(record)
    is_a, has, known = {}, {}, {}
    for fact in facts:
        every, low, article, high = re.fullmatch(
            r"(Each |Every )?(\w+?)(?:es)? (?:is|are) (an? )?((?:not )?\w+?)(?:es)?", fact).groups()
        assert article in (None, "an " if high[0] in "aeiou" else "a "), fact
        if not every and " is " in fact:
            known[high], entity = fact + ".", low
        else:
            (is_a if article or fact.endswith("uses") else has)[low.lower(), high] = fact + "."
    asked = re.fullmatch(rf"True or false: {entity} is ((?:not )?[a-z]+)\.", asked)[1]
    return is_a, has, known, entity, asked


def check_prontoqa(record, hops=5, balanced=False, whole=True):
    """whole: with all that distracts; else some of it may be missing."""
    is_a, has, known, entity, asked = read_prontoqa(record)
    children = {entity: list(known)}
    for low, high in is_a:
        children.setdefault(low, []).append(high)
    reach = prosqa.distances(entity, children)
    true = {quality: low for low, quality in has if low in reach}
    assert not any("not " + quality in true for quality in true), "a contradiction"
    opposite = asked.removeprefix("not ") if asked.startswith("not ") else "not " + asked
    conclusion, lure = (asked, opposite) if asked in true else (opposite, asked)
    assert conclusion in true and record["answer"] == str(asked == conclusion)
    lures = [low for low, quality in has if quality == lure]
    if whole:
        assert [len(is_a), len(has)] == [2 * hops + 1 + 3 * balanced, 2 * hops + 2]
        assert [len(known), len(lures), len(reach)] == [2, 1, 2 * hops + 4]
    proof = [sentence + "." for sentence in " ".join(record["steps"])[:-1].split(". ")]
    assert [step.count(". ") for step in record["steps"]] == [1] * hops + [0]
    assert reach[true[conclusion]] == hops, "the proof is a shortest one"
    at, quoted = next(name for name in known if known[name] == proof[0]), proof[1::2]
    for fact, concluded in zip(quoted[:-1], proof[2::2]):
        at = next(high for (low, high), text in is_a.items() if low == at and text == fact)
        assert concluded == f"{entity} is {'an' if at[0] in 'aeiou' else 'a'} {at}."
    assert has[at, conclusion] == quoted[-1] and proof[-1] == f"{entity} is {conclusion}."


SPELLED = {word: n for n, word in enumerate("""two three four five six seven eight nine ten eleven
    twelve""".split(), start=2)} | {"twice": 2, "half": 2, "third": 3, "quarter": 4}


def check_gsm8k(record, max_value=99999, most_steps=5):
    words = re.findall(r"\d+|[a-z]+", record["question"])
    given = {SPELLED.get(word) or int(word) for word in words if word.isdigit() or word in SPELLED}
    known, used, results = given | ({100} if "%" in record["question"] else set()), set(), []
    for step in record["steps"]:
        text, result = re.fullmatch(r"<<(\d+(?:[-+*/]\d+)+)=(\d+)>>", step).groups()
        numbers = {int(number) for number in re.findall(r"\d+", text)}
        value = eval(re.sub(r"(\d+)", r"Fraction(\1)", text))
        assert value == int(result) and 2 <= value and max(*numbers, value) <= max_value, step
        assert numbers <= known | {*results}, "a number from nowhere"
        used |= numbers
        results.append(int(result))
    assert 1 <= len(results) <= most_steps and len({*results}) == len(results)
    assert {*results[:-1]} <= used, "an unused result"
    assert record["answer"] == str(results[-1])
    assert results[-1] not in given, "the question tells the answer"


CHECKS = {"prontoqa": check_prontoqa, "prosqa": check_prosqa, "gsm8k": check_gsm8k}


@pytest.mark.parametrize("task, size, bounds", [
    ("prontoqa", {"wording": "every"}, {}), *(("prosqa", {"nodes": n}, {}) for n in (20, 28, 40)),
    ("prosqa", {"nodes": 8}, {"hops": range(2, 7)}),
    *(("prosqa", {"nodes": nodes, "balanced": True}, {"hops": hops, "balanced": True})
      for nodes, hops in ((8, {2}), (12, {2, 3}), (28, {3, 4}))),
    *(("prontoqa", size, size) for size in ({"hops": 1}, {"hops": 6}, {"hops": 5, "balanced": 1})),
    *(("gsm8k", {"max_value": value, "most_steps": most}, {"max_value": value, "most_steps": most})
      for value, most in ((20, 1), (60, 5), (30, 2), (99999, 5)))])
def test_a_problem_of_any_size_is_sound(task, size, bounds):
    for record in problems(task, 150, 101, "valid", **size):
        CHECKS[task](record, **bounds)


def test_growing_problems_are_sound_from_the_easiest_to_the_whole():
    for epoch in range(3):
        records = problems("prontoqa", 300, 109, epoch=epoch, balanced=True, grow=2, hops=3)
        for record in records:
            check_prontoqa(record, len(record["steps"]) - 1, balanced=True, whole=False)
        lengths = [record["question"].count(".") for record in records]
        assert min(lengths) == 4 and (max(lengths) == 4 if epoch == 0 else max(lengths) > 15)
    for epoch, hops in ((0, range(1, 9)), (1, range(2, 7))):
        for record in problems("prosqa", 200, 110, epoch=epoch, grow=1, nodes=12):
            check_prosqa(record, hops)
            assert epoch or all(len({*nodes}) == len(nodes) for nodes in zip(*record["edges"]))


@pytest.mark.parametrize("task", ["prosqa", "prontoqa"])
def test_steps_that_are_names_are_those_in_the_sentences_of_the_same_problem(task):
    for sentences, names in zip(problems(task, 100, 111), problems(task, 100, 111, steps="names")):
        told = [re.search(r" is (?:an? )?(.+?)\.", step)[1] for step in sentences["steps"]]
        if task == "prosqa":
            expected = [sentences["answer"].split()[0], *told]
        else:
            claim = re.search(r"True or false: \w+ (.*)\.", sentences["question"])[1]
            expected = [claim, *told[:-1], f"is {told[-1]}"]
        assert names == sentences | {"steps": expected}


def test_the_checkers_refuse_an_unsound_problem():
    for task, check in CHECKS.items():
        right, *others = problems(task, 20, 109)
        for key in ("question", "steps", "answer"):
            other = next(other for other in others if other[key] != right[key])
            with pytest.raises((AssertionError, KeyError, StopIteration, TypeError, ValueError)):
                check(right | {key: other[key]})


def prosqa_statistics(record):
    bets = prosqa.guesses(record["question"]).items()
    return {**{shortcut: 0.5 if bet is None else bet == record["answer"] for shortcut, bet in bets},
            "nodes": len(record["idx_to_symbol"]), "sentences": len(record["edges"]),
            "hops": len(record["steps"]), "root": record["root"]}


PROSQA_SHORTCUTS = {  # and their accuracies on the 800 official problems
    "first option": .505, "fewer mentions": .664, "first mentioned later": .586, "more ancestors":
    .707, "not within 2 hops of anybody": .843, "farther from its nearest entity": .916}
PROSQA = {shortcut: (accuracy, .02) for shortcut, accuracy in PROSQA_SHORTCUTS.items()} | {
    "nodes": (22.81, .3), "sentences": (36.00, .6), "hops": (3.77, .06), "root": (.64, .03)}


def prontoqa_statistics(record):
    _, has, _, _, asked = read_prontoqa(record)
    chain = [re.search(r"is an? (\w+)\.", step)[1] for step in record["steps"][:-1]]
    negated = {low: quality.startswith("not ") for low, quality in has}
    bet = prontoqa.guesses(record["question"])["the sign of the concept mentioned more often"]
    return {"answer True": record["answer"] == "True", "asked negated": asked.startswith("not "),
            "end negated": negated[chain[-1]], "way negated": mean(map(negated.get, chain[:-1])),
            "mentioned more often": 0.5 if bet is None else bet == record["answer"]}


PRONTOQA = {"answer True": (.5, .005), "asked negated": (.5, .005), "end negated": (.4715, .005),
            "way negated": (.277, .005), "mentioned more often": (1, 0)}


def assert_near(records, statistics, targets, official_n=inf):
    """Every mean is its target (of so many problems) up to its slack and four standard errors."""
    table = [statistics(record) for record in records]
    for name, (target, slack) in targets.items():
        sample = [float(row[name]) for row in table]
        error = pstdev(sample) * sqrt(1 / len(sample) + 1 / official_n)
        assert abs(mean(sample) - target) <= slack + 4 * error, (name, mean(sample), target)


def test_problems_are_distributed_like_the_official_ones_but_no_shortcut_solves_balanced_ones():
    assert_near(problems("prosqa", 800, 110), prosqa_statistics, PROSQA, 800)
    assert_near(problems("prontoqa", 1000, 111), prontoqa_statistics, PRONTOQA)
    assert_near(problems("prosqa", 400, 113, balanced=True), prosqa_statistics,
                {shortcut: (.5, .02) for shortcut in PROSQA_SHORTCUTS})
    assert_near(problems("prontoqa", 400, 114, balanced=True), prontoqa_statistics,
                {"mentioned more often": (.5, 0), "answer True": (.5, .005)})


def test_the_checkers_accept_the_official_problems(real_data):
    pros = json.loads((real_data / "prosqa_valid.json").read_text())
    pronto = [e._asdict() for e in common.read_examples(real_data / "prontoqa_5hop_raw.json")]
    assert pros[0].keys() == problems("prosqa", 1, 0)[0].keys()
    for record in pros:
        check_prosqa(record)
    for record in pronto:
        check_prontoqa(record)
    assert_near(pros, prosqa_statistics, PROSQA, 800)
    assert_near(pronto, prontoqa_statistics, PRONTOQA)


@pytest.mark.parametrize("task, balanced, checksum", [
    ("prosqa", False, 695930201), ("prosqa", True, 2235692799), ("gsm8k", False, 3488002615),
    ("prontoqa", False, 2572725072), ("prontoqa", True, 2958215202)])
def test_equal_seeds_give_equal_problems_on_every_machine(task, balanced, checksum):
    records = common.problems(task, 5, 0, balanced=balanced)
    assert zlib.crc32(json.dumps(records).encode()) == checksum
