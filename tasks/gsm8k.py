"""
GSM8k-Aug asks for a number; a step is an equation (arXiv 2311.01460). In its files a problem is:

    Out of 7 pens 2 are lost. ..||<<7-2=5>> <<5*3=15>> #### 15

Generated problems are easier than GSM8k: what a model scores on them says nothing about GSM8k. One
of them, exactly as problems("gsm8k", 1, seed=3, most_steps=3) returns it:
    {"question": "The shop is ten miles away. Emma collects 16 beads a day for 11 days. Then Emma
     finds 27 more beads. Emma sells all of them for $5 each. How many dollars does Emma get?",
     "steps": ["<<11*16=176>>", "<<176+27=203>>", "<<203*5=1015>>"], "answer": "1015"}

A generated story is an opener, up to four middles and a closer. A row of the tables holds a
relative frequency, a sentence, and the steps it adds. Capitals are people: F is whom the story has
come to, and v the number of items F has; G is somebody new, who then becomes F; E was F before, and
has p items. x is the result of the step before. The other letters are numbers drawn on the spot.
"""
import math
import re
from functools import partial
from itertools import accumulate

from tasks.record import Size

URL = "githubusercontent.com/{}da03/Internalize_CoT_Step_by_Step/main/data/gsm8k/"
OFFICIAL = {
    "gsm8k_train.txt": ("https://media." + URL.format("media/") + "train.txt", None),  # Git-LFS
    "gsm8k_valid.txt": ("https://raw." + URL.format("") + "valid.txt",
                        "04f9bddfe8ac4846571b1e2b612b289c95770b5012fdb34cc36a597b041afb87"),
    "gsm8k_test.txt": ("https://raw." + URL.format("") + "test.txt", None),
}
SIZES = {"max_value": Size(99999, range(20, 100000), "20..99999, or there is no story to tell"),
         "most_steps": Size(5, range(1, 6), "1..5, as a story has at most four middles")}
SCRATCH = {"max_value": 30, "most_steps": 2, "n_layer": 3, "c_thought": 2, "epochs_stage_0": 6,
           "max_latent_stage": lambda size: size["most_steps"], "epochs_per_stage": 3, "epochs": 17,
           "decay_epochs": 5, "icot_tokens": 4, "icot_all_beyond": 39, "max_new_tokens": 64}
PAPER = {"n_train": 385620, "n_valid": 500, "n_test": 1319, "c_thought": 2, "max_latent_stage": 3,
         "extra_stage": True, "epochs_stage_0": 6, "epochs_per_stage": 3, "max_new_tokens": 64}


def read_line(line):
    """The record of a line."""
    question, rest = line.split("||")
    steps, _, answer = rest.partition("####")
    return {"question": question.strip(), "steps": steps.split(), "answer": answer.strip()}


OPENERS = [
    (4, "{F} has {v} {items}."),
    (2, "{F} buys {a} boxes with {b} {items} in each box.", "a*b"),
    (1, "{F} has {c} red {items} and {d} blue {items}.", "c+d"),
    (1, "{F} collects {b} {items} a day for {a} days.", "a*b"),
    (1, "{F} had {c} {items} and lost {d} of them.", "c-d"),
    (2, "{m} {items} are split equally into {a} bags and {F} takes one bag.", "m/a"),
]
MIDDLES = [
    (3, "Then {F} finds {c} more {items}.", "v+c"),
    (3, "{F} gives {c} {items} to a neighbor.", "v-c"),
    (1, "{G} has {k} as many {items} as {F}.", "v*k"),
    (2, "{G} has {h} as many {items} as {F}.", "v/h"),
    (1, "{G} has {c} more {items} than {F}.", "v+c"),
    (1, "{G} has {c} fewer {items} than {F}.", "v-c"),
    (2, "{F} packs all {items} equally into {g} bags and keeps only one bag.", "v/g"),
    (2, "{F} gives away {q}% of the {items}.", "v*q/100", "v-x"),
    (2, "{F} buys {a} more packs of {b} {items}.", "a*b", "v+x"),
    (1, "{F} uses {b} {items} a day for {a} days.", "a*b", "v-x"),
]
CLOSERS = [
    (3, "How many {items} does {F} have now?"),
    (3, "{F} sells all of them for ${s} each. How many dollars does {F} get?", "v*s"),
    (3, "How many {items} do {E} and {F} have together?", "p+v"),
    (1, "How many more {items} does {E} have than {F}?", "p-v"),
    (2, "{F} wants {t} {items}. How many more {items} does {F} need?", "t-v"),
    (4, "{F} puts {g} {items} in each jar. How many jars does {F} fill?", "v/g"),
]
IDLE = [  # nothing to the point
    (1, "{G} is {a} years old."),
    (1, "It is {c} degrees outside."),
    (1, "The shop is {a} miles away."),
]
RANGES = {"a": (2, 12), "b": (3, 25), "c": (5, 60), "d": (2, 40), "k": (2, 5), "s": (2, 12)}
TIMES = ["twice", "three times", "four times", "five times"]
PARTS = ["half", "a third", "a quarter"]
SPELLED = "two three four five six seven eight nine ten eleven twelve".split()
PEOPLE = "Anna Ben Clara David Emma Frank Grace Henry Ivy John Kate Liam".split()
ITEMS = """apples beads books buttons cards coins cookies marbles pencils shells stamps
    stickers""".split()
STEP_WEIGHTS = (5, 28, 28, 21, 18)  # of 1, 2, 3, 4, 5 steps: GSM8k-Aug's shares (of "5 or more")


def draw(rng, max_value, most_steps):
    """Return (sentences, steps, answer) of a story; its people are still numbers, not names."""
    openers, middles, closers, idle = (
        partial(rng.choices, table, cum_weights=[*accumulate(weight for weight, *_ in table)])
        for table in (OPENERS, MIDDLES, CLOSERS, IDLE))
    wanted = rng.choices(range(1, most_steps + 1), STEP_WEIGHTS[:most_steps])[0]
    story = None
    while story is None:
        rows = [*openers(), *middles(k=rng.randrange(5)), *closers()]
        no_e = "{E}" in rows[-1][1] and not any("{G}" in sentence for _, sentence, *_ in rows)
        if no_e or sum(len(steps) for _, _, *steps in rows) != wanted:
            continue
        if rng.random() < 0.25:
            rows.insert(rng.randrange(len(rows)), *idle())
        story = fill_in(rng, rows, max_value)
    return story


def fill_in(rng, rows, max_value):
    """Return the story of these rows with numbers drawn for it, or None if they come out unfit."""
    now = {"E": 0, "F": 0, "v": rng.randint(8, min(99, max_value))}  # what each letter stands for
    sentences, steps, given, results = [], [], [], []
    for place, (_, sentence, *formulas) in enumerate(rows, start=1):
        now |= draw_numbers(rng, now["v"], max_value) | {"G": place}
        sentences.append((sentence, dict(now)))
        given += [now[letter] for letter in re.findall("{([a-z])}", sentence)]
        for formula in formulas:
            filled = "".join(str(now.get(char, char)) for char in formula)
            result = eval(filled)  # digits and operators of our own, such as 40*25/100
            largest = max(result, *map(int, re.findall(r"\d+", filled)))
            if result < 2 or result % 1 or largest > max_value:
                return None
            now["x"] = int(result)
            results.append(now["x"])
            steps.append(f"<<{filled}={now['x']}>>")
        if formulas:
            if "{G}" in sentence:
                now |= {"E": now["F"], "p": now["v"], "F": now["G"]}
            now["v"] = now["x"]
    if now["v"] in given or len(set(results)) < len(results):
        return None  # the answer must not be had for less than all of the steps
    return sentences, steps, str(now["v"])


def draw_numbers(rng, v, max_value):
    """Return a number for every letter that a sentence may draw, where v is the items at hand."""
    most = max_value // 2  # leaves room for the results
    number = {name: rng.randint(low, min(high, most)) for name, (low, high) in RANGES.items()}
    number["m"] = number["a"] * number["b"]
    number["t"] = v + rng.randint(5, min(80, most))
    number["q"] = rng.choice((10, 20, 25, 40, 50, 75))
    # g and h divide v. If nothing does, 2 will fail in its step, and the story is drawn again.
    number["g"] = rng.choice([n for n in range(2, 13) if v % n == 0] or [2])
    number["h"] = rng.choice([n for n in range(2, 5) if v % n == 0] or [2])
    return number


def word(rng, sentences, steps, answer):
    """Return the record: people and items get their names, and some numbers are spelled out."""
    people, items, text = rng.sample(PEOPLE, len(PEOPLE)), rng.choice(ITEMS), []
    for sentence, letters in sentences:
        shown = letters | {who: people[letters[who]] for who in "EFG"} | {"items": items}
        shown |= {"k": TIMES[letters["k"] - 2], "h": PARTS[letters["h"] - 2]}
        shown |= {name: SPELLED[letters[name] - 2] for name in "ag" if rng.random() < 0.4}
        text.append(sentence.format(**shown))
    return {"question": " ".join(text), "steps": steps, "answer": answer}


def guesses(question):
    """{rule: answer}. No rule reads more than the numbers, in digits or spelled."""
    spelled = {word: number for number, word in enumerate(SPELLED, start=2)}
    numbers = [spelled.get(word) or int(word) for word in re.findall(r"\d+|[a-z]+", question)
               if word.isdigit() or word in spelled] or [0]
    bets = {"last number": numbers[-1], "largest number": max(numbers), "sum": sum(numbers),
            "product": math.prod(numbers), "first times last": numbers[0] * numbers[-1],
            "first minus last": numbers[0] - numbers[-1]}
    return {rule: str(bet) for rule, bet in bets.items()}
