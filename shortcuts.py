"""
What can be guessed: rules that bet on an answer by the look of a question, without any reasoning.

The official problems have such shortcuts, and the generated ones keep them (tasks.py). A model at
70-90 % on ProsQA has not necessarily searched the graph, so report these rules beside it:
`python analyze.py shortcuts RUN` counts them on the very problems that a run was tested on.
"""
import math
import re
from statistics import mean

from arithmetic import SPELLED
from data import is_correct


def read_prosqa(question):
    """([(parent, child), ..], who is asked about, [the two options]) of a ProsQA question."""
    edges = re.findall(r"(\w+) is a (\w+)\.", question)
    entity, *options = re.search(r"Is (\w+) a (\w+) or (\w+)\?$", question).groups()
    return edges, entity, options


def prosqa_guesses(question):
    """{rule: answer}, None where the rule sees no difference. No rule looks at who is asked."""
    edges, entity, options = read_prosqa(question)
    parents = {}
    for parent, child in edges:
        parents.setdefault(child, []).append(parent)
    above = {option: distances(option, parents) for option in options}
    entities = {option: [d for node, d in above[option].items() if node not in parents]
                for option in options}
    place = {option: question.index(option + ".") for option in options}

    def the_one_with_more(score):
        first, second = map(score, options)
        return None if first == second else options[first < second]

    bets = {
        "first option": options[0],
        "fewer mentions": the_one_with_more(lambda option: -len(parents[option])),
        "first mentioned later": the_one_with_more(lambda option: place[option]),
        "not within 2 hops of anybody": the_one_with_more(lambda option: min(entities[option]) > 2),
        "farther from its nearest entity": the_one_with_more(lambda option: min(entities[option])),
        "more ancestors": the_one_with_more(lambda option: len(above[option])),
    }
    return {rule: bet and f"{entity} is a {bet}." for rule, bet in bets.items()}


def distances(node, neighbors):
    """{node that can be reached: over how many edges}, the node itself at 0. neighbors: {node:
    [those one edge away]}, its parents, say, or its children."""
    found, frontier = {node: 0}, [node]
    for here in frontier:
        for there in neighbors.get(here, ()):
            if there not in found:
                found[there] = found[here] + 1
                frontier.append(there)
    return found


def prontoqa_guesses(question):
    """{rule: answer}, None where the rule sees no difference. No rule follows the chain."""
    text, asked = re.match(r"(.*) True or false: \w+ is (.*)\.$", question).groups()
    *sign, adjective = asked.split()
    told = re.findall(rf"(\w+?)(?:es)? (?:is|are) (not )?{adjective}\.", text)  # [(who, sign), ..]
    mentions = [len(re.findall(rf"\b{who}", text, re.IGNORECASE)) for who, _ in told]

    def believe(place):
        return str(told[place][1].split() == sign)

    often = None if mentions.count(max(mentions)) > 1 else believe(mentions.index(max(mentions)))
    return {
        "true unless it says not": str(not sign),
        "the sign at the property's first mention": believe(0),
        "the sign at its last mention": believe(-1),
        "the sign of the concept mentioned more often": often,
    }


def gsm8k_guesses(question):
    """{rule: answer}. No rule reads more than the numbers, in digits or spelled."""
    spelled = {word: number for number, word in enumerate(SPELLED, start=2)}
    numbers = [spelled.get(word) or int(word) for word in re.findall(r"\d+|[a-z]+", question)
               if word.isdigit() or word in spelled] or [0]
    bets = {"last number": numbers[-1], "largest number": max(numbers), "sum": sum(numbers),
            "product": math.prod(numbers), "first times last": numbers[0] * numbers[-1],
            "first minus last": numbers[0] - numbers[-1]}
    return {rule: str(bet) for rule, bet in bets.items()}


GUESSES = {"prosqa": prosqa_guesses, "prontoqa": prontoqa_guesses, "gsm8k": gsm8k_guesses}


def points(task, examples):
    """{rule: [1 if it bets on the answer, 0 if on another, 0.5 if it has no opinion, ..]} of
    Examples of text; no rules, {}, if one has a question that is not worded as the task's are."""
    try:
        bets = [GUESSES[task](example.question) for example in examples]
    except (AttributeError, LookupError, ValueError):  # what the rules look for is not there
        return {}
    return {rule: [0.5 if bet[rule] is None else float(is_correct("### " + bet[rule], e.answer))
                   for bet, e in zip(bets, examples)] for rule in bets[0]}


def shortcut_accuracy(task, examples):
    """{rule: accuracy} of a task's rules on Examples of text; no opinion counts as half right."""
    return {rule: mean(values) for rule, values in points(task, examples).items()}
