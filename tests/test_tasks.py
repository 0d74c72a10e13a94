"""The generated problems are sound, look like the official ones, and never leave their split.

The checkers below read a record's text alone, so that they share no idea, and no mistake, with the
generators. Where COCONUT_DATA_DIR holds official files, the same checkers must accept those too.
"""
import functools
import json
import re
import time
import zlib
from fractions import Fraction
from math import inf, sqrt
from statistics import mean, pstdev

import pytest

from tasks import common, gsm8k, prontoqa, prosqa

problems = functools.cache(common.problems)  # several tests look at the same problems


def read(path):
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return json.loads(path.read_text())


def sentences_of(record):
    """All sentences of a question, without their full stops, and the query."""
    *facts, query = record["question"].split(". ")
    assert len(set(facts)) == len(facts), "a sentence occurs twice"
    return facts, query


def distances(children, start):
    """How many edges each reachable node is from the start."""
    found, frontier = {start: 0}, [start]
    for node in frontier:
        for child in children.get(node, ()):
            if child not in found:
                found[child] = found[node] + 1
                frontier.append(child)
    return found


# --------------------------------------------------------------------------------------------------
# ProsQA


def read_prosqa(record):
    facts, query = sentences_of(record)
    edges = []
    for fact in facts:
        child_of_entity = re.fullmatch(r"([A-Z][a-z]+) is a ([a-z]+)", fact)
        child_of_concept = re.fullmatch(r"Every ([a-z]+) is a ([a-z]+)", fact)
        assert child_of_entity or child_of_concept, fact
        edges.append((child_of_entity or child_of_concept).groups())
    children, parents = {}, {}
    for parent, child in edges:
        children.setdefault(parent, []).append(child)
        parents.setdefault(child, []).append(parent)
    asked, *options = re.fullmatch(r"Is ([A-Z][a-z]+) a ([a-z]+) or ([a-z]+)\?", query).groups()
    answer = re.fullmatch(r"([A-Z][a-z]+) is a ([a-z]+)\.", record["answer"])
    assert answer[1] == asked and answer[2] in options
    distractor = options[1 - options.index(answer[2])]
    return edges, children, parents, asked, options, answer[2], distractor


def check_prosqa(record, hops=range(3, 7)):
    edges, children, parents, asked, options, target, distractor = read_prosqa(record)
    names = set(children) | set(parents)
    for name in names:
        assert name[0].isupper() == (name not in parents), "entities, and only they, lack parents"
        assert all(name not in distances(children, child) for child in children.get(name, ()))
    reach = distances(children, asked)
    assert [option for option in options if option in reach] == [target], "one option is reachable"
    assert target not in children and distractor not in children, "options are leaves"
    others = [name for name in names if name[0].isupper() and name != asked]
    assert any(distractor in distances(children, other) for other in others)

    steps = record["steps"]
    facts = [fact + "." for fact in sentences_of(record)[0]]
    assert all(step in facts for step in steps)
    way = [re.findall(r"(\w+) is a (\w+)", step)[0] for step in steps]
    assert way[0][0] == asked and way[-1][1] == target
    assert all(before[1] == after[0] for before, after in zip(way, way[1:]))
    assert len(steps) == reach[target] and len(steps) in hops, "a shortest path of allowed length"

    name = record["idx_to_symbol"]
    assert len(name) == len(names) and set(name) == names
    assert {(name[parent], name[child]) for parent, child in record["edges"]} == set(edges)
    assert [child for _, child in record["edges"]] == sorted(child for _, child in record["edges"])
    assert all(parent < child for parent, child in record["edges"]), "indices are topological"
    assert record["root"] in (0, 1) and name[0][0].isupper() and name[1][0].isupper()
    assert (name[record["root"]], name[record["target"]], name[record["neg_target"]]) == (
        asked, target, distractor)


def prosqa_statistics(record):
    edges, children, parents, asked, options, target, distractor = read_prosqa(record)
    names = set(children) | set(parents)
    rival = record["idx_to_symbol"][1 - record["root"]]
    below_asked, below_rival = distances(children, asked), distances(children, rival)
    hops = len(record["steps"])

    def shortest_paths(node):
        nearer = [p for p in parents.get(node, ()) if below_asked.get(p, 99) < below_asked[node]]
        return sum(map(shortest_paths, nearer)) or 1

    parent_counts = [len(above) for above in parents.values()]
    child_counts = [len(children.get(name, ())) for name in parents]
    return {
        "nodes": len(names), "sentences": len(edges), "entities": len(names - set(parents)),
        "leaves": sum(name not in children for name in names),
        **{f"concepts with {k} parents": mean(min(n, 4) == k for n in parent_counts)
           for k in (1, 2, 3, 4)},
        **{f"concepts with {k} children": mean(min(n, 4) == k for n in child_counts)
           for k in (0, 1, 2, 3, 4)},
        "children of the asked": len(children[asked]),
        "nodes below the asked only": len(set(below_asked) - set(below_rival)) - 1,
        "nodes below the rival only": len(set(below_rival) - set(below_asked)) - 1,
        "nodes below both": len(set(below_asked) & set(below_rival)),
        "hops": hops, **{f"{k} hops": hops == k for k in (3, 4, 5, 6)},
        "hops to the distractor": below_rival[distractor],
        "shortest paths": shortest_paths(target),
        "parents of the target": len(parents[target]),
        "parents of the distractor": len(parents[distractor]),
        "node 1 is asked": record["root"],
        "right option first": options[0] == target,
    }


PROSQA_STATISTICS = {  # the mean over the 800 official problems, and how far off is near enough
    "nodes": (22.81, .3), "sentences": (36.00, .6), "entities": (2.56, .06), "leaves": (7.37, .1),
    "concepts with 1 parents": (.493, .01), "concepts with 2 parents": (.313, .01),
    "concepts with 3 parents": (.136, .01), "concepts with 4 parents": (.057, .01),
    "concepts with 0 children": (.364, .01), "concepts with 1 children": (.235, .01),
    "concepts with 2 children": (.172, .01), "concepts with 3 children": (.118, .01),
    "concepts with 4 children": (.111, .01),
    "children of the asked": (2.94, .1), "nodes below the asked only": (11.12, .3),
    "nodes below the rival only": (7.74, .3), "nodes below both": (1.24, .1),
    "hops": (3.77, .06), "3 hops": (.407, .03), "4 hops": (.438, .03), "5 hops": (.131, .03),
    "6 hops": (.024, .03), "hops to the distractor": (2.12, .06), "shortest paths": (1.59, .08),
    "parents of the target": (1.48, .05), "parents of the distractor": (2.09, .06),
    "node 1 is asked": (.64, .03), "right option first": (.505, .005),
}


def prosqa_shortcuts(record):
    """For rules that ignore who is asked: 1 if right, 0 if wrong, 1/2 on a tie."""
    return {rule: 0.5 if bet is None else float(bet == record["answer"])
            for rule, bet in prosqa.guesses(record["question"]).items()}


PROSQA_SHORTCUTS = {  # their official accuracies; in balanced problems all must be at chance
    "first option": .505, "fewer mentions": .664, "first mentioned later": .586,
    "not within 2 hops of anybody": .843, "farther from its nearest entity": .916,
    "more ancestors": .707,
}


# --------------------------------------------------------------------------------------------------
# ProntoQA


def read_prontoqa(record):
    """Is-a rules, property rules and facts (each by its meaning), the entity and the query."""
    facts, query = sentences_of(record)
    is_a, has, known = {}, {}, {}
    for sentence in facts:
        fact = re.fullmatch(r"([A-Z][a-z]+) is (an?) ([a-z]+)", sentence)
        one = re.fullmatch(r"(?:Each|Every) ([a-z]+us) is (?:(an?) )?((?:not )?[a-z]+)", sentence)
        many = re.fullmatch(r"([A-Z][a-z]+us)es are ((?:not )?[a-z]+)", sentence)
        assert fact or one or many, sentence
        if fact:
            entity, article, concept = fact.groups()
            known[concept] = sentence + "."
        elif one:
            low, article, concept = one.groups()
            (is_a if article else has)[low, concept] = sentence + "."
        else:
            low, high, article = many[1].lower(), many[2], None
            if high.endswith("uses"):
                is_a[low, high[:-2]] = sentence + "."
            else:
                has[low, high] = sentence + "."
        if article:
            assert article == ("an" if concept[0] in "aeiou" else "a"), sentence
    assert all(sentence.startswith(entity) for sentence in known.values())
    query = re.fullmatch(rf"True or false: {entity} is ((?:not )?[a-z]+)\.", query)[1]
    return is_a, has, known, entity, query


def opposite(quality):
    return quality[4:] if quality.startswith("not ") else "not " + quality


def check_prontoqa(record, hops=5, balanced=False, whole=True):
    """whole: with all distractors; else some may be missing."""
    is_a, has, known, entity, query = read_prontoqa(record)
    extra = 3 if balanced else 0
    concepts = {name for pair in is_a for name in pair} | {low for low, _ in has} | set(known)
    if whole:
        assert [len(is_a), len(has), len(known)] == [2 * hops + 1 + extra, 2 * hops + 2, 2]
        assert len(concepts) == 2 * hops + 4 + extra

    children = {entity: list(known)}
    for low, high in is_a:
        children.setdefault(low, []).append(high)
    reach = distances(children, entity)
    true = {quality: low for low, quality in has if low in reach}
    assert not any(opposite(quality) in true for quality in true), "a contradiction"
    conclusion = query if query in true else opposite(query)
    assert conclusion in true, "neither the query nor its opposite follows"
    assert record["answer"] == str(query == conclusion)
    lures = [low for low, quality in has if quality == opposite(conclusion)]
    assert len(lures) == 1 or not whole
    assert not reach.keys() & set(lures), "the lure does not follow"
    if whole:
        assert len(reach) - 1 == 2 * hops + 3, "the entity is everything but the lure"

    proof = [sentence + "." for sentence in " ".join(record["steps"])[:-1].split(". ")]
    assert len(proof) == 2 * hops + 1 and len(record["steps"]) == hops + 1
    assert [step.count(". ") for step in record["steps"]] == [1] * hops + [0]
    assert reach[true[conclusion]] == hops, "the proof is a shortest one"
    at, quoted = next(name for name in known if known[name] == proof[0]), proof[1::2]
    for rule, concluded in zip(quoted[:-1], proof[2::2]):
        at = next(high for (low, high), text in is_a.items() if low == at and text == rule)
        assert concluded == f"{entity} is {'an' if at[0] in 'aeiou' else 'a'} {at}."
    assert has[at, conclusion] == quoted[-1] and proof[-1] == f"{entity} is {conclusion}."


def prontoqa_statistics(record):
    is_a, has, known, entity, query = read_prontoqa(record)
    facts, _ = sentences_of(record)
    rules = [fact for fact in facts if not fact.startswith(entity)]
    conclusion = record["steps"][-1]
    asked_adjective = conclusion.split()[-1][:-1]
    chain = [re.search(r"is an? (\w+)\.", step)[1] for step in record["steps"][:-1]]
    sign = {low: quality.startswith("not ") for low, quality in has}
    lure = next(low for low, quality in has
                if quality.endswith(asked_adjective) and low != chain[-1])
    others = [low for low in sign if low not in chain and low != lure]
    quoted = [step.split(". ")[1].rstrip(".") for step in record["steps"][:-1]]
    bet = prontoqa.guesses(record["question"])["the sign of the concept mentioned more often"]
    return {
        "answer True": record["answer"] == "True",
        "query negated": query.startswith("not "), "conclusion negated": " not " in conclusion,
        "properties on the way negated": mean(sign[low] for low in chain[:-1]),
        "other properties negated": mean(sign[low] for low in others),
        "plural": mean(" are " in rule for rule in rules),
        "Each": mean(rule.startswith("Each ") for rule in rules),
        "Every": mean(rule.startswith("Every ") for rule in rules),
        "proof fact first": facts[-2] + "." == known[chain[0]],
        "rule before the next one": mean(
            facts.index(rule) < facts.index(then) for rule, then in zip(quoted, quoted[1:])),
        "shortcut: the concept mentioned more often":
            0.5 if bet is None else bet == record["answer"],
    }


PRONTOQA_STATISTICS = {
    "answer True": (.5, .005), "query negated": (.5, .005), "conclusion negated": (.4715, .005),
    "properties on the way negated": (.277, .005), "other properties negated": (.333, .005),
    "plural": (.5, .005), "Each": (.25, .005), "Every": (.25, .005), "proof fact first": (.5, .005),
    "rule before the next one": (.5, .005),
    "shortcut: the concept mentioned more often": (1, 0),
}


def from_raw_prontoqa(raw):
    """A record from one of the official generator's own, as the official preprocessing joins it."""
    example = raw["test_example"]
    chain = example["chain_of_thought"]
    return {"question": example["question"] + " " + example["query"],
            "steps": [" ".join(chain[i:i + 2]) for i in range(0, len(chain), 2)],
            "answer": example["answer"]}


# --------------------------------------------------------------------------------------------------
# Arithmetic

SPELLED = {word: n for n, word in enumerate(
    "two three four five six seven eight nine ten eleven twelve".split(), start=2)}
SPELLED |= {"twice": 2, "half": 2, "third": 3, "quarter": 4}


def numbers_of(question):
    words = re.findall(r"\d+|[a-z]+", question)
    return [int(word) if word.isdigit() else SPELLED[word]
            for word in words if word.isdigit() or word in SPELLED]


def operands_of(step):
    return list(map(int, re.findall(r"\d+", step.split("=")[0])))


def check_gsm8k(record, max_value=99999, most_steps=5):
    steps, given = record["steps"], numbers_of(record["question"])
    assert 1 <= len(steps) <= most_steps
    assert record["question"].endswith("?") and "{" not in record["question"]
    assert 2 <= min(given) and max(given) <= max_value
    results = []
    for step in steps:
        text, result = re.fullmatch(r"<<(\d+(?:[-+*/]\d+){1,2})=(\d+)>>", step).groups()
        value, *rest = re.findall(r"[-+*/]|\d+", text)
        value = Fraction(value)
        for operator, operand in zip(rest[::2], map(Fraction, rest[1::2])):
            value = {"+": value + operand, "-": value - operand,
                     "*": value * operand, "/": value / operand}[operator]
        assert value == int(result) and 2 <= value <= max_value, step
        assert max(operands_of(step)) <= max_value
        percent = {100} if "%" in record["question"] else set()
        assert set(operands_of(step)) <= {*given, *results} | percent, "a number from nowhere"
        results.append(int(result))
    for place, result in enumerate(results[:-1]):
        assert any(result in operands_of(step) for step in steps[place + 1:]), "an unused result"
    assert record["answer"] == str(results[-1]) and len(set(results)) == len(results)
    assert results[-1] not in given, "the question tells the answer"


def gsm8k_statistics(record):
    steps, given, answer = record["steps"], numbers_of(record["question"]), int(record["answer"])
    results = [int(step.split("=")[1][:-2]) for step in steps]
    operators = re.findall(r"[-+*/]", "".join(step.split("=")[0] for step in steps))
    product = functools.reduce(lambda x, y: x * y, given)
    uses = [any(result in operands_of(step) for result in results[:place])
            for place, step in enumerate(steps) if place > 0]
    return {
        "steps": len(steps), **{f"{k} steps": len(steps) == k for k in (1, 2, 3, 4, 5)},
        **{f"operator {sign}": operators.count(sign) / len(operators) for sign in "+-*/"},
        "later steps that use a result": mean(uses) if uses else 0.9,
        "answer < 10": answer < 10, "answer >= 1000": answer >= 1000,
        "guess: a given number": answer in given, "guess: sum": answer == sum(given),
        "guess: product": answer == product, "guess: first * last": answer == given[0] * given[-1],
        "guess: first - second": len(given) > 1 and answer == given[0] - given[1],
    }


GSM8K_STATISTICS = {
    "steps": (3.2, .15), "1 steps": (.05, .05), "2 steps": (.28, .05), "3 steps": (.28, .05),
    "4 steps": (.21, .05), "5 steps": (.17, .05),
    "operator +": (.26, .08), "operator -": (.17, .08), "operator *": (.37, .08),
    "operator /": (.18, .08), "later steps that use a result": (.9, .1),
    "answer < 10": (.15, .15), "answer >= 1000": (.08, .08),
    "guess: a given number": (0, .02), "guess: sum": (0, .03), "guess: product": (0, .05),
    "guess: first * last": (0, .04), "guess: first - second": (0, .03),
}


# --------------------------------------------------------------------------------------------------
# The tests

CHECKS = {"prontoqa": check_prontoqa, "prosqa": check_prosqa, "gsm8k": check_gsm8k}


def assert_near(records, statistics, targets, official_n=800):
    """Every mean is its target up to its slack and four standard errors.

    official_n: how many problems the targets were measured on, infinite where they are exact.
    """
    table = [statistics(record) for record in records]
    for name, (target, slack) in targets.items():
        sample = [float(row[name]) for row in table]
        error = sqrt(1 / len(sample) + 1 / official_n)
        assert abs(mean(sample) - target) <= slack + 4 * pstdev(sample) * error, (
            f"{name}: {mean(sample):.3f}, official {target}")


@pytest.mark.parametrize("split, seed", [("train", 101), ("valid", 102), ("test", 103)])
@pytest.mark.parametrize("task", CHECKS)
def test_a_problem_at_official_size_is_sound(task, split, seed):
    for record in problems(task, 200, seed, split):
        CHECKS[task](record)


@pytest.mark.parametrize("nodes, hops", [(8, range(2, 7)), (10, range(2, 7)), (16, range(2, 7)),
                                         (20, range(3, 7)), (40, range(3, 7))])
def test_a_prosqa_graph_of_another_size_is_sound(nodes, hops):
    for record in problems("prosqa", 150, 104, "test", nodes=nodes):
        check_prosqa(record, hops)
        assert len(record["idx_to_symbol"]) <= nodes


@pytest.mark.parametrize("nodes, hops", [(8, {2}), (12, {2, 3}), (28, {3, 4})])
def test_a_balanced_prosqa_problem_is_sound_with_its_options_at_one_depth(nodes, hops):
    records = problems("prosqa", 100, 105, balanced=True, nodes=nodes)
    for record in records:
        check_prosqa(record, hops)
        _, children, _, asked, _, target, distractor = read_prosqa(record)
        rival = record["idx_to_symbol"][1 - record["root"]]
        assert distances(children, asked)[target] == distances(children, rival)[distractor]
    assert {len(record["steps"]) for record in records} == hops


@pytest.mark.parametrize("hops, balanced", [*((hops, False) for hops in range(1, 7)),
                                            *((hops, True) for hops in range(1, 6))])
def test_a_prontoqa_proof_of_another_length_is_sound(hops, balanced):
    for record in problems("prontoqa", 100, 106, "valid", balanced=balanced, hops=hops):
        check_prontoqa(record, hops, balanced)


def test_problems_of_mixed_size_are_sound_from_the_easiest_to_the_whole():
    """They are for training: a model learns to look one rule up before it finds its way."""
    grown = {"grow": 2, "epoch": 2}
    for balanced in (False, True):
        records = problems("prontoqa", 400, 108, balanced=balanced, hops=3, **grown)
        for record in records:
            check_prontoqa(record, len(record["steps"]) - 1, balanced, whole=False)
        sentences = [record["question"].count(".") for record in records]
        largest = 4 * 3 + 5 + (3 if balanced else 0) + 1
        assert max(sentences) == largest and sentences.count(largest) > 20
        assert min(sentences) < 6 and {len(record["steps"]) for record in records} == {2, 3, 4}
    records = problems("prosqa", 200, 108, nodes=12, **grown)
    for record in records:
        check_prosqa(record, range(2, 7))
    assert len({len(record["idx_to_symbol"]) for record in records}) > 5


def test_prontoqa_of_mixed_size_grows_from_epoch_to_epoch():
    epochs = [problems("prontoqa", 200, 109, epoch=epoch, grow=2, hops=3)
              for epoch in range(3)]
    lengths = [mean(len(record["question"]) for record in records) for records in epochs]
    assert lengths == sorted(lengths)
    assert {record["question"].count(".") for record in epochs[0]} == {4}, "one bare hop at first"


def test_growing_prosqa_starts_from_chains_without_branches():
    for record in problems("prosqa", 200, 110, epoch=0, grow=1, nodes=12):
        check_prosqa(record, range(1, 9))
        parents, children = zip(*record["edges"])
        assert len({*parents}) == len(parents) and len({*children}) == len(children)


def test_a_step_that_is_a_name_is_that_of_its_sentence():
    for sentences, names in zip(problems("prosqa", 100, 111, nodes=12),
                                problems("prosqa", 100, 111, nodes=12, steps="names")):
        way = [re.findall(r"(\w+) is a (\w+)", step)[0] for step in sentences["steps"]]
        assert names["steps"] == [way[0][0], *[child for _, child in way]]
        assert {**names, "steps": 0} == {**sentences, "steps": 0}


def test_a_step_that_is_a_name_is_that_of_its_conclusion():
    for sentences, names in zip(problems("prontoqa", 100, 111),
                                problems("prontoqa", 100, 111, steps="names")):
        claim = re.search(r"True or false: \w+ (.*)\.", sentences["question"])[1]
        way = [re.search(r" is an? (\w+)", step)[1] for step in sentences["steps"][:-1]]
        concluded = sentences["steps"][-1].split(" ", 1)[1].removesuffix(".")
        assert names["steps"] == [claim, *way, concluded]
        assert {**names, "steps": 0} == {**sentences, "steps": 0}


def test_wording_every_has_no_other_wording():
    for record in problems("prontoqa", 100, 107, wording="every"):
        check_prontoqa(record)
        rules = record["question"].split(". ")[:-3]
        assert all(rule.startswith("Every ") for rule in rules)


@pytest.mark.parametrize("max_value, most_steps", [(20, 1), (20, 5), (30, 2), (99, 3), (1000, 4)])
def test_an_arithmetic_problem_of_another_size_is_sound(max_value, most_steps):
    records = problems("gsm8k", 100, 108, max_value=max_value, most_steps=most_steps)
    for record in records:
        check_gsm8k(record, max_value, most_steps)
    assert {len(record["steps"]) for record in records} == set(range(1, most_steps + 1))


def test_the_checkers_refuse_an_unsound_problem():
    """A wrong answer, a missing step and a changed number must all be noticed."""
    pronto, pros, gsm = (problems(task, 1, 109)[0] for task in CHECKS)
    _, _, _, asked, _, _, distractor = read_prosqa(pros)
    wrong = {"True": "False", "False": "True"}[pronto["answer"]]
    broken = [
        (check_prosqa, pros | {"answer": f"{asked} is a {distractor}."}),
        (check_prosqa, pros | {"steps": pros["steps"][1:]}),
        (check_prosqa, pros | {"question": pros["question"].replace(pros["steps"][0], "")}),
        (check_prontoqa, pronto | {"answer": wrong}),
        (check_prontoqa, pronto | {"steps": pronto["steps"][1:]}),
        (check_prontoqa, pronto | {"steps": pronto["steps"][:1] * 5 + pronto["steps"][-1:]}),
        (check_gsm8k, gsm | {"answer": gsm["answer"] + "0"}),
        (check_gsm8k, gsm | {"steps": gsm["steps"][1:]}),
        (check_gsm8k, gsm | {"steps": [s.replace("=", "0=") for s in gsm["steps"]]}),
    ]
    for check, record in broken:
        with pytest.raises((AssertionError, AttributeError, StopIteration, KeyError, TypeError)):
            check(record)


def test_generated_prosqa_is_distributed_like_the_official_problems():
    assert_near(problems("prosqa", 800, 110), prosqa_statistics, PROSQA_STATISTICS)
    targets = {rule: (accuracy, .02) for rule, accuracy in PROSQA_SHORTCUTS.items()}
    assert_near(problems("prosqa", 800, 110), prosqa_shortcuts, targets)


def test_generated_prontoqa_is_distributed_like_the_official_problems():
    assert_near(problems("prontoqa", 1000, 111), prontoqa_statistics, PRONTOQA_STATISTICS, inf)


def test_generated_arithmetic_is_distributed_like_gsm8k_aug():
    assert_near(problems("gsm8k", 1000, 112), gsm8k_statistics, GSM8K_STATISTICS, 1819)


def test_no_shortcut_solves_balanced_prosqa():
    targets = {rule: (.5, .02) for rule in PROSQA_SHORTCUTS}
    assert_near(problems("prosqa", 400, 113, balanced=True), prosqa_shortcuts, targets, inf)


def test_no_shortcut_solves_balanced_prontoqa():
    targets = {"shortcut: the concept mentioned more often": (.5, 0),
               "answer True": (.5, .005), "query negated": (.5, .005)}
    assert_near(problems("prontoqa", 400, 114, balanced=True), prontoqa_statistics, targets, inf)


def test_the_checkers_accept_the_official_prosqa_problems(real_data):
    records = read(real_data / "prosqa_valid.json")
    for record in records:
        check_prosqa(record)
    assert set(records[0]) == set(problems("prosqa", 1, 0)[0]), "the same keys"
    assert_near(records, prosqa_statistics, PROSQA_STATISTICS)


def test_the_checkers_accept_the_official_prontoqa_problems(real_data):
    raw_records = read(real_data / "prontoqa_5hop_raw.json").values()
    records = [from_raw_prontoqa(raw) for raw in raw_records]
    for record in records:
        check_prontoqa(record)
    assert_near(records, prontoqa_statistics, PRONTOQA_STATISTICS, inf)


@pytest.mark.parametrize("task, balanced, checksum", [
    ("prosqa", False, 695930201), ("prosqa", True, 2235692799), ("gsm8k", False, 3488002615),
    ("prontoqa", False, 2572725072), ("prontoqa", True, 2958215202)])
def test_equal_seeds_give_equal_problems_in_every_process(task, balanced, checksum):
    """The pinned numbers stand for every process, machine and Python version."""
    records = common.problems(task, 5, 0, balanced=balanced)
    assert zlib.crc32(json.dumps(records).encode()) == checksum


@pytest.mark.parametrize("task", CHECKS)
def test_seeds_epochs_and_splits_have_different_problems(task):
    base = problems(task, 20, 1)
    assert problems(task, 10, 1) == base[:10], "more problems only add to fewer"
    variants = [base, problems(task, 20, 2), problems(task, 20, 1, epoch=1),
                problems(task, 20, 1, "valid"), problems(task, 20, 1, "test")]
    questions = [record["question"] for records in variants for record in records]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("task, size", [
    ("prosqa", {"nodes": 8}), ("prontoqa", {"hops": 1, "wording": "every"}),
    ("gsm8k", {"max_value": 20, "most_steps": 1}), ("prosqa", {}), ("prontoqa", {}), ("gsm8k", {})])
def test_no_two_splits_share_a_problem(task, size):
    """Neither as it stands, nor with its sentences or options in another order."""
    seen = {}
    for split in ("train", "valid", "test"):
        for seed in (0, 1):
            for record in problems(task, 150, seed, split, **size):
                *facts, query = record["question"].split(". ")
                key = tuple(sorted(facts)), tuple(sorted(re.findall(r"\w+", query)))
                assert seen.setdefault(key, split) == split


@pytest.mark.parametrize("task", CHECKS)
def test_a_reshuffled_copy_of_a_problem_stays_in_its_split(task):
    for record in problems(task, 20, 115, "valid"):
        *facts, query = record["question"].split(". ")
        swapped = re.sub(r"(\w+) or (\w+)\?", r"\2 or \1?", query)
        assert common.split_of(". ".join([*facts[::-1], swapped])) == "valid"


@pytest.mark.house
@pytest.mark.parametrize("arguments, mend", [
    ({"task": "gsm"}, "task must be one of prontoqa, prosqa, gsm8k (got 'gsm')"),
    ({"split": "dev"}, "split must be train, valid or test (got 'dev')"), ({"n": 0}, "n must be 1"),
    ({"hops": 9}, "hops must be 1..6, as the generator has only 17 concept names (got 9)"),
    ({"hops": 0}, "1..6"), ({"hops": 2.0}, "1..6"), ({"hops": "5"}, "1..6"),
    ({"hops": 6, "balanced": True}, "1..5"), ({"nodes": 28}, "which has hops, wording"),
    ({"wording": "each"}, "wording must be official or every (got 'each')"),
    ({"task": "prosqa", "steps": "words"}, "steps must be sentences or names (got 'words')"),
    ({"task": "prosqa", "nodes": 7}, "8..40"), ({"task": "prosqa", "nodes": 41}, "8..40"),
    ({"task": "gsm8k", "max_value": 19}, "20..99999"), ({"task": "gsm8k", "most_steps": 6}, "1..5"),
    ({"task": "gsm8k", "balanced": True}, "balanced must be off for gsm8k"),
])
def test_a_bad_argument_gets_a_helpful_sentence(arguments, mend):
    with pytest.raises(ValueError) as caught:
        common.problems(**{"task": "prontoqa", "n": 1, "seed": 0, **arguments})
    sentence = str(caught.value)
    assert mend in sentence and "\n" not in sentence


@pytest.mark.house
def test_the_generator_returns_the_problems_that_docstrings_show():
    text = " ".join(" ".join(module.__doc__ for module in (prontoqa, prosqa, gsm8k)).split())
    calls = re.findall(r"problems\(\".*?\)", text)
    assert len(calls) == 3
    for call in calls:
        assert json.dumps(eval(call, {"problems": common.problems})[0]) in text


@pytest.mark.house
@pytest.mark.parametrize("task, a_second, arguments", [
    ("prosqa", 1000, {}), ("prosqa", 1000, {"split": "test"}), ("prontoqa", 1000, {}),
    ("prontoqa", 1000, {"split": "test", "balanced": True}), ("gsm8k", 400, {}),
    ("gsm8k", 400, {"max_value": 99, "most_steps": 3})])
def test_generating_is_fast(task, a_second, arguments):
    """The best of several short trials, in processor time: neighbours must not matter."""
    rates = []
    for trial in range(5):
        start = time.process_time()
        common.problems(task, 60, trial, **arguments)
        rates.append(60 / (time.process_time() - start))
        if rates[-1] > a_second:
            return
    pytest.fail(f"{max(rates):.0f} problems a second, {a_second} are asked for")
