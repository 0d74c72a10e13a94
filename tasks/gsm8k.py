"""
GSM8k-Aug asks for a number; a step is an equation (arXiv 2311.01460). In its files a problem is:

    Out of 7 pens 2 are lost. ..||<<7-2=5>> <<5*3=15>> #### 15

Generated problems are easier than GSM8k: what a model scores on them says nothing about GSM8k. One
of them, exactly as problems("gsm8k", 1, seed=3, most_steps=3) returns it:
    {"question": "The shop is ten miles away. Emma collects 16 beads a day for 11 days. Then Emma
     finds 27 more beads. Emma sells all of them for $5 each. How many dollars does Emma get?",
     "steps": ["<<11*16=176>>", "<<176+27=203>>", "<<203*5=1015>>"], "answer": "1015"}

A generated story is an opener, up to four middles and a closer. A row of the tables holds a
relative frequency, a sentence, and a formula for each step that it adds. {Who} is the person whom
the story has come to, and has {n} items; {New} is somebody new, who is {Who} from then on; {Old}
was {Who} before, and has {m} items. {result} is that of the step before. Other names are numbers
drawn on the spot.
"""
import math
import re

from tasks.record import Size, UserError

URL = "githubusercontent.com/{}da03/Internalize_CoT_Step_by_Step/main/data/gsm8k/{}.txt"
OFFICIAL = {
    "gsm8k_train.txt": ("https://media." + URL.format("media/", "train"),  # Git-LFS
                        "0a3909a9e7d8d2f7ad6b8c7b5608aa744988d835f9bf874d4cf06ca77df6bf8c"),
    "gsm8k_valid.txt": ("https://raw." + URL.format("", "valid"),
                        "04f9bddfe8ac4846571b1e2b612b289c95770b5012fdb34cc36a597b041afb87"),
    "gsm8k_test.txt": ("https://raw." + URL.format("", "test"),
                       "e464efa2713fbcf423bdbfb482c543a6a086188c3d97c294b1d19a70c2a515e8")}
SIZES = {"max_value": Size(99999, range(20, 100000), "20..99999, or there is no story to tell"),
         "most_steps": Size(5, range(1, 6), "1..5, as a story has at most four middles")}
SCRATCH = {"max_value": 30, "most_steps": 2, "n_layer": 3, "c_thought": 2, "epochs_stage_0": 6,
           "max_latent_stage": lambda size: size["most_steps"], "epochs_per_stage": 3, "epochs": 17,
           "decay_epochs": 5, "icot_tokens": 4, "icot_all_beyond": 39, "max_new_tokens": 64}
PAPER = {"n_train": 385620, "n_valid": 500, "n_test": 1319, "c_thought": 2, "max_latent_stage": 3,
         "extra_stage": True, "epochs_stage_0": 6, "epochs_per_stage": 3, "max_new_tokens": 64}


def read_line(line, where):
    """Return the record of a line of GSM8k-Aug's files. Its steps are those in <<..>>, blanks
    included; a text without any is one step. UserError, that says where, if it has both."""
    question, rest = line.split("||")
    text, _, answer = rest.partition("####")
    steps = re.findall(r"<<.*?>>", text)
    between = re.sub(r"<<.*?>>", "", text).strip()
    if steps and between:
        raise UserError(f"{where} has text beside its steps in <<..>>: {between[:40]!r}")
    return {"question": question.strip(), "steps": steps or [between], "answer": answer.strip()}


OPENERS = [
    (4, "{Who} has {n} {items}."),
    (2, "{Who} buys {few} boxes with {some} {items} in each box.", "{few}*{some}"),
    (1, "{Who} has {many} red {items} and {rest} blue {items}.", "{many}+{rest}"),
    (1, "{Who} collects {some} {items} a day for {few} days.", "{few}*{some}"),
    (1, "{Who} had {many} {items} and lost {rest} of them.", "{many}-{rest}"),
    (2, "{all} {items} are split equally into {few} bags and {Who} takes one bag.", "{all}/{few}")]
MIDDLES = [
    (3, "Then {Who} finds {many} more {items}.", "{n}+{many}"),
    (3, "{Who} gives {many} {items} to a neighbor.", "{n}-{many}"),
    (1, "{New} has {times} as many {items} as {Who}.", "{n}*{times}"),
    (2, "{New} has {part} as many {items} as {Who}.", "{n}/{part}"),
    (1, "{New} has {many} more {items} than {Who}.", "{n}+{many}"),
    (1, "{New} has {many} fewer {items} than {Who}.", "{n}-{many}"),
    (2, "{Who} packs all {items} equally into {equal} bags and keeps only one bag.", "{n}/{equal}"),
    (2, "{Who} gives away {percent}% of the {items}.", "{n}*{percent}/100", "{n}-{result}"),
    (2, "{Who} buys {few} more packs of {some} {items}.", "{few}*{some}", "{n}+{result}"),
    (1, "{Who} uses {some} {items} a day for {few} days.", "{few}*{some}", "{n}-{result}")]
CLOSERS = [
    (3, "How many {items} does {Who} have now?"),
    (3, "{Who} sells all of them for ${cost} each. How many dollars does {Who} get?", "{n}*{cost}"),
    (3, "How many {items} do {Old} and {Who} have together?", "{m}+{n}"),
    (1, "How many more {items} does {Old} have than {Who}?", "{m}-{n}"),
    (2, "{Who} wants {goal} {items}. How many more {items} does {Who} need?", "{goal}-{n}"),
    (4, "{Who} puts {equal} {items} in each jar. How many jars does {Who} fill?", "{n}/{equal}")]
IDLE = [(1, "{New} is {few} years old."), (1, "It is {many} degrees outside."),
        (1, "The shop is {few} miles away.")]  # nothing to the point
RANGES = {"few": (2, 12), "some": (3, 25), "many": (5, 60), "rest": (2, 40), "times": (2, 5),
          "cost": (2, 12)}
TIMES = ["twice", "three times", "four times", "five times"]
PARTS = ["half", "a third", "a quarter"]
SPELLED = "two three four five six seven eight nine ten eleven twelve".split()
PEOPLE = "Anna Ben Clara David Emma Frank Grace Henry Ivy John Kate Liam".split()
ITEMS = """apples beads books buttons cards coins cookies marbles pencils shells stamps
    stickers""".split()
STEP_WEIGHTS = (5, 28, 28, 21, 18)  # of 1, 2, 3, 4, 5 steps: GSM8k-Aug's shares (of "5 or more")


def draw(rng, max_value, most_steps):
    """Return (sentences, steps, answer) of a story; its people are still numbers, not names."""
    def rows_of(table, k=1):
        return rng.choices(table, [weight for weight, *_ in table], k=k)

    wanted = rng.choices(range(1, most_steps + 1), STEP_WEIGHTS[:most_steps])[0]
    story = None
    while story is None:
        rows = [*rows_of(OPENERS), *rows_of(MIDDLES, k=rng.randrange(5)), *rows_of(CLOSERS)]
        no_old = "{Old}" in rows[-1][1] and not any("{New}" in sentence for _, sentence, *_ in rows)
        if no_old or sum(len(formulas) for _, _, *formulas in rows) != wanted:
            continue
        if rng.random() < 0.25:
            rows.insert(rng.randrange(len(rows)), *rows_of(IDLE))
        story = fill_in(rng, rows, max_value)
    return story


def fill_in(rng, rows, max_value):
    """Return the story of these rows with numbers drawn for it, or None if they come out unfit."""
    now = {"Who": 0, "Old": 0, "n": rng.randint(8, min(99, max_value))}  # what each name stands for
    sentences, steps, given, results = [], [], [], []
    for place, (_, sentence, *formulas) in enumerate(rows, start=1):
        now |= draw_numbers(rng, now["n"], max_value) | {"New": place}
        sentences.append((sentence, dict(now)))
        given += [now[name] for name in re.findall("{([a-z]+)}", sentence) if name != "items"]
        for formula in formulas:
            filled = formula.format(**now)
            result = eval(filled)  # digits and operators of our own, such as 40*25/100
            largest = max(result, *map(int, re.findall(r"\d+", filled)))
            if result < 2 or result % 1 or largest > max_value:
                return None
            now["result"] = int(result)
            results.append(now["result"])
            steps.append(f"<<{filled}={now['result']}>>")
        if formulas:
            if "{New}" in sentence:
                now |= {"Old": now["Who"], "m": now["n"], "Who": now["New"]}
            now["n"] = now["result"]
    if now["n"] in given or len(set(results)) < len(results):
        return None  # the answer must not be had for less than all of the steps
    return sentences, steps, str(now["n"])


def draw_numbers(rng, n, max_value):
    """Return {name: number} of all that a sentence may ask for. {equal} and {part} divide n; if
    nothing does, 2 will fail in its step, and the story is drawn again."""
    most = max_value // 2  # leaves room for the results
    number = {name: rng.randint(low, min(high, most)) for name, (low, high) in RANGES.items()}
    number["all"] = number["few"] * number["some"]
    number["goal"] = n + rng.randint(5, min(80, most))
    number["percent"] = rng.choice((10, 20, 25, 40, 50, 75))
    for name, most in (("equal", 12), ("part", 4)):
        number[name] = rng.choice([d for d in range(2, most + 1) if n % d == 0] or [2])
    return number


def word(rng, sentences, steps, answer):
    """Return the record: people and items get their names, and some numbers are spelled out."""
    people, items, text = rng.sample(PEOPLE, len(PEOPLE)), rng.choice(ITEMS), []
    for sentence, number in sentences:
        shown = number | {who: people[number[who]] for who in ("Old", "Who", "New")}
        shown |= {"items": items, "times": TIMES[number["times"] - 2],
                  "part": PARTS[number["part"] - 2]}
        shown |= {name: SPELLED[number[name] - 2] for name in ("few", "equal") if rng.random() < .4}
        text.append(sentence.format(**shown))
    return {"question": " ".join(text), "steps": steps, "answer": answer}


def guesses(question):
    """Return {shortcut: answer}. They read nothing but the numbers, in digits or spelled."""
    spelled = {name: number for number, name in enumerate(SPELLED, start=2)}
    numbers = [spelled.get(text) or int(text) for text in re.findall(r"\d+|[a-z]+", question)
               if text.isdigit() or text in spelled] or [0]
    bets = {"last number": numbers[-1], "largest number": max(numbers), "sum": sum(numbers),
            "product": math.prod(numbers), "first times last": numbers[0] * numbers[-1],
            "first minus last": numbers[0] - numbers[-1]}
    return {shortcut: str(bet) for shortcut, bet in bets.items()}
