"""
ProntoQA asks whether a statement follows from facts, some of which lead astray at every hop of the
proof (Saparov and He, arXiv 2210.01240). One small record, exactly as problems("prontoqa", 1,
seed=78, hops=2) returns it:
    {"question": "Grimpuses are numpuses. Grimpuses are spicy. Dumpuses are cold. Yumpuses are
     aggressive. Lorpuses are small. Lorpuses are rompuses. Dumpuses are yumpuses. Wumpuses are not
     small. Dumpuses are lorpuses. Lorpuses are brimpuses. Each rompus is red. Rex is a dumpus. Rex
     is a grimpus. True or false: Rex is small.", "steps": ["Rex is a dumpus. Dumpuses are
     lorpuses.", "Rex is a lorpus. Lorpuses are small.", "Rex is small."], "answer": "True"}

The generator follows the official one (asaparov/prontoqa at commit f0145b8) with fictional
concepts, relevant distractors and random order. That one writes a JSON object of raw problems:
    {"example1": {"test_example": {"question": .., "query": .., "chain_of_thought": ..}}, ..}
"""
import re

from tasks.record import STEPS, Size, UserError

NO_OFFICIAL = (
    "no ProntoQA files were released: run github.com/asaparov/prontoqa at f0145b8, `python "
    "run_experiment.py --model-name json --model-size dummy --ordering random --num-trials 10000 "
    "--few-shot-examples 0 --ontology fictional --min-hops 5 --max-hops 5 --hops-skip 1`, and pass "
    "what it writes: --data 5hop_0shot_random.json")
SIZES = {"hops": Size(5, range(1, 7), "1..6, as the generator has only 17 concept names"),
         "wording": Size("official", ("official", "every"), "official or every"),
         "steps": STEPS}
BALANCED = GROWS = True
SCRATCH = {"hops": 2, "wording": "every", "steps": "names", "grow": 2, "eot": False,
           "uniform_prob": 0.3,
           # A step for each hop, and one for the end. Where they are names, the first is the claim.
           "max_latent_stage": lambda size: size["hops"] + 1 + (size["steps"] == "names")}
PAPER = {"n_train": 9000, "n_test": 800, "icot_all_beyond": 104}


def read_raw(raw):
    """Return the record of a raw problem, or None if it is none. Two sentences of the proof are a
    step, as in the official preprocessing/prontoqa.py: 5 hops are 11 sentences, so 6 steps."""
    try:
        raw = raw["test_example"]
        proof = raw["chain_of_thought"]
        if isinstance(proof, list):
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
    """Return (chain, is_a, negated, dropped, wording, steps): the concepts on the way, who is what,
    whose property has a "not", what is left out, and how problem and proof are written.

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
    """Return the record. A step is a conclusion and the fact applied next, and the last one bare;
    or in bare words the claim, the concepts on the way, and what is concluded."""
    labels = [*negated, "top", "e2", "lure", "x", "y", "z"]
    name = dict(zip(labels, rng.sample(CONCEPTS, len(CONCEPTS))))
    entity, end = rng.choice(ENTITIES), chain[-1]
    adjective = dict(zip(negated, map(rng.choice, rng.sample(PROPERTIES, len(negated)))))
    has = {label: "not " * negated[label] + adjective[label] for label in negated}
    has["lure"] = "not " * (not negated[end]) + adjective[end]

    def a(label):
        return f"{'an' if name[label][0] in 'aeiou' else 'a'} {name[label]}"

    def every(label, singular, plural):
        forms = ("plural", "plural", "Each", "Every")
        form = rng.choice(forms) if wording == "official" else "Every"
        if form == "plural":
            return f"{name[label].capitalize()}es are {plural}."
        return f"{form} {name[label]} is {singular}."

    facts = {(low, high): every(low, a(high), name[high] + "es") for low, high in is_a}
    facts |= {label: every(label, has[label], has[label]) for label in has if label not in dropped}
    known = [f"{entity} is {a(label)}." for label in rng.sample([chain[0], "e1"], 2)
             if label not in dropped]
    text = " ".join(rng.sample(list(facts.values()), len(facts)) + known)
    truth = rng.random() < 0.5
    claim, conclusion = "is " + has[end if truth else "lure"], "is " + has[end]
    if steps == "names":
        written = [claim, *(name[label] for label in chain), conclusion]
    else:
        applied = [facts[pair] for pair in zip(chain, chain[1:])] + [facts[end]]
        written = [f"{entity} is {a(label)}. {fact}" for label, fact in zip(chain, applied)]
        written.append(f"{entity} {conclusion}.")
    return {"question": f"{text} True or false: {entity} {claim}.", "steps": written,
            "answer": str(truth)}


def guesses(question):
    """Return {shortcut: answer, or None if it sees no difference}. No shortcut follows the chain.
    Raises UserError if the question is worded otherwise."""
    asked = re.match(r"(.*) True or false: \w+ is (not )?(\w+)\.$", question)
    text, sign, adjective = asked.groups() if asked else ("", None, "")
    told = re.findall(rf"(\w+?)(?:es)? (?:is|are) (not )?{adjective}\.", text)  # [(who, sign), ..]
    if not told:
        raise UserError("the question does not ask for a property as ProntoQA's do")
    mentions = [len(re.findall(rf"\b{who}", text, re.IGNORECASE)) for who, _ in told]
    agrees = [str(said == (sign or "")) for _, said in told]
    often = max(mentions)
    return {"true unless it says not": str(not sign),
            "the sign at the property's first mention": agrees[0],
            "the sign at its last mention": agrees[-1],
            "the sign of the concept mentioned more often":
                None if mentions.count(often) > 1 else agrees[mentions.index(often)]}
