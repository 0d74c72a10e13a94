"""
ProntoQA asks whether a statement follows from rules, some of which lead astray at every hop of the
proof (Saparov and He, arXiv 2210.01240). One small record, exactly as problems("prontoqa", 1,
seed=3, hops=2) returns it:
    {"question": "Yumpuses are hot. Each dumpus is not loud. Every vumpus is a gorpus. Every
     lempus is not bright. Vumpuses are nervous. Shumpuses are zumpuses. Wumpuses are shumpuses.
     Shumpuses are bright. Wumpuses are yumpuses. Shumpuses are dumpuses. Wumpuses are slow. Fae
     is a vumpus. Fae is a wumpus. True or false: Fae is bright.", "steps": ["Fae is a wumpus.
     Wumpuses are shumpuses.", "Fae is a shumpus. Shumpuses are bright.", "Fae is bright."],
     "answer": "True"}

The generator follows the official one (asaparov/prontoqa at commit f0145b8) with fictional
concepts, relevant distractors and random order. That one writes a JSON object of raw problems:

    {"example1": {"test_example": {"question": .., "query": .., "chain_of_thought": ..}}, ..}
"""
import re

from tasks.record import STEPS, Example, Size, UserError

NO_OFFICIAL = (
    "no ProntoQA files were released: run github.com/asaparov/prontoqa at f0145b8, `python "
    "run_experiment.py --model-name json --model-size dummy --ordering random --num-trials "
    "10000 --few-shot-examples 0 --ontology fictional --min-hops 5 --max-hops 5 "
    "--hops-skip 1`, and pass what it writes: --data 5hop_0shot_random.json")
SIZES = {"hops": Size(5, range(1, 7), "1..6, as the generator has only 17 concept names"),
         "wording": Size("official", ("official", "every"), "official or every"),
         "steps": STEPS}
BALANCED = GROWS = True


def most_steps(size):
    """The number of steps of problems of this size."""
    return size["hops"] + 1 + (size["steps"] == "names")  # the first of the names is the claim


SCRATCH = {"hops": 2, "wording": "every", "steps": "names", "grow": 2, "eot": False,
           "max_latent_stage": most_steps}
PAPER = {"n_train": 9000, "n_test": 800, "icot_all_beyond": 104}


def read_raw(raw):
    """The record of one of the official generator's raw problems. Two sentences of the proof make a
    step, as in the official preprocessing/prontoqa.py: 5 hops are 11 sentences, so 6 steps."""
    try:
        raw = raw["test_example"]
        proof = raw["chain_of_thought"]
        if not isinstance(proof, list):
            return None
        return {"question": raw["question"] + " " + raw["query"], "answer": raw["answer"],
                "steps": [" ".join(proof[i:i + 2]) for i in range(0, len(proof), 2)]}
    except (TypeError, KeyError):
        return None


ENTITIES = "Alex Fae Max Polly Rex Sally Sam Stella Wren".split()
CONCEPTS = """brimpus dumpus gorpus grimpus impus jompus lempus lorpus numpus rompus shumpus
    sterpus tumpus vumpus wumpus yumpus zumpus""".split()
PROPERTIES = [family.split() for family in (  # no problem uses a family twice
    "blue red brown orange", "small large", "metallic wooden luminous liquid", "transparent opaque",
    "nervous happy feisty shy", "bright dull", "sweet sour spicy bitter", "floral fruity earthy",
    "hot cold temperate", "kind mean angry amenable aggressive", "melodic muffled discordant loud",
    "slow moderate fast", "windy sunny overcast rainy snowy")]


def draw(rng, hops, wording, steps, balanced=False, growth=None):
    """Return (chain, is_a, negated, dropped, wording, steps): who is what, whose property has a
    "not", and how problem and proof are written.

    The chain c1 -> c2 -> .. leads to the property asked about, every ci also to a dead end di;
    e1 -> e2 stands apart; the lure has the opposite property, and is mentioned once only, which
    gives it away. Balanced problems mention it as often as the end of the chain. Growing problems
    (see common.problems) may have a shorter chain, and less or nothing that distracts."""
    if balanced and hops == 6:
        raise UserError("hops must be 1..5 if balanced, as that takes 3 names more (got 6)")
    kept = 1
    if growth is not None:
        hops, kept = rng.randint(1, 1 + round((hops - 1) * growth)), 1.3 * growth * rng.random()
    chain = [f"c{i}" for i in range(1, hops + 1)]
    dead_ends = [f"d{i}" for i in range(1, hops + 1)]
    is_a = [*zip(chain, [*chain[1:], "top"]), *zip(chain, dead_ends), ("e1", "e2")]
    if balanced:
        is_a += [("lure", "x"), ("lure", "y"), ("z", "lure")]
    # Signs start at 1/3. The official generator redraws until a proof runs through the chain and
    # stops at its end, which favours properties without "not" on the way and with it at the end.
    chances = [0.277] * (hops - 1) + [0.4715] + [1 / 3] * (hops + 1)
    negated = {owner: rng.random() < chance
               for owner, chance in zip([*chain, *dead_ends, "e1"], chances)}
    dropped = {label for label in [*dead_ends, "e1", "lure"] if kept < 1 and rng.random() > kept}
    return chain, [pair for pair in is_a if not dropped & {*pair}], negated, dropped, wording, steps


def word(rng, chain, is_a, negated, dropped, wording, steps):
    """Return the record. A step is a conclusion and the rule applied next, and the last one bare;
    or in bare words the claim, the concepts on the way, and what is concluded."""
    labels = [*negated, "top", "e2", "lure", "x", "y", "z"]
    name = dict(zip(labels, rng.sample(CONCEPTS, len(CONCEPTS))))
    entity, end = rng.choice(ENTITIES), chain[-1]
    adjective = dict(zip(negated, map(rng.choice, rng.sample(PROPERTIES, len(negated)))))
    has = {label: "not " * negated[label] + adjective[label] for label in negated}
    has["lure"] = "not " * (not negated[end]) + adjective[end]

    def a(label):
        return f"{'an' if name[label][0] in 'aeiou' else 'a'} {name[label]}"

    def rule(label, singular, plural):
        forms = ("plural", "plural", "Each", "Every")
        form = rng.choice(forms) if wording == "official" else "Every"
        if form == "plural":
            return f"{name[label].capitalize()}es are {plural}."
        return f"{form} {name[label]} is {singular}."

    rules = {(low, high): rule(low, a(high), name[high] + "es") for low, high in is_a}
    rules |= {label: rule(label, has[label], has[label]) for label in has if label not in dropped}
    facts = [f"{entity} is {a(label)}." for label in rng.sample([chain[0], "e1"], 2)
             if label not in dropped]
    text = " ".join(rng.sample(list(rules.values()), len(rules)) + facts)
    truth = rng.random() < 0.5
    claim = "is " + has[end if truth else "lure"]
    names = [claim, *(name[label] for label in chain), "is " + has[end]]
    applied = [rules[pair] for pair in zip(chain, chain[1:])] + [rules[end]]
    sentences = [f"{entity} is {a(label)}. {then}" for label, then in zip(chain, applied)]
    return {
        "question": f"{text} True or false: {entity} {claim}.",
        "steps": names if steps == "names" else [*sentences, f"{entity} is {has[end]}."],
        "answer": str(truth),
    }


def guesses(question):
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


def last_hops(example, hops):
    """What is left of a ProntoQA problem once the proof starts so many hops before its end.

    The concepts before, and their dead ends, go with every sentence that mentions them; who was the
    first of them now is the first that is left. The other sentences stay, word for word."""
    def concepts(text):
        return re.findall(r"[a-z]+us(?=(?:es)?\b)", text.lower())

    if not (example.steps and all(concepts(step) for step in example.steps[:-1])
            and example.steps[-1].endswith(".")):
        raise UserError("--hops is for problems whose steps are sentences of ProntoQA, not names")
    start = len(example.steps) - 1 - hops
    if hops < 1 or start < 0:
        raise UserError(f"--hops must be 1 to {len(example.steps) - 1}, as many as a problem has "
                        f"(got {hops})")
    chain = [concepts(step)[0] for step in example.steps[:-1]]
    facts = [step.split(". ")[0] for step in example.steps]  # what the proof concludes, in order
    sentences = [facts[start] if sentence == facts[0] else sentence
                 for sentence in example.question.split(". ")]
    gone = set(chain[:start])
    gone |= {pair[1] for pair in map(concepts, sentences)
             if len(pair) == 2 and pair[0] in gone} - {*chain[start:start + 1]}
    kept = [sentence for sentence in sentences if not gone & {*concepts(sentence)}]
    return Example(". ".join(kept), example.steps[start:], example.answer)
