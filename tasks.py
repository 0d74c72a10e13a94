"""The three tasks, and a generator of fresh problems for each.

A problem is a record {"question", "steps", "answer"} in the format of the files released with the
Coconut paper (arXiv 2412.06769). One small record of each, exactly as `problems` returns it:

ProsQA asks which of two concepts an entity is. The sentences are the edges of a graph, in which the
entity leads to one option and somebody else to the other. problems("prosqa", 1, seed=1, nodes=8):
    {"question": "Every jelpus is a quimpus. Every chorpus is a dumpus. Tom is a dumpus. Tom is a
     chorpus. Tom is a yimpus. Rex is a jelpus. Is Rex a quimpus or yimpus?", "steps": ["Rex is a
     jelpus.", "Every jelpus is a quimpus."], "answer": "Rex is a quimpus.", "idx_to_symbol":
     ["Tom", "Rex", "jelpus", "quimpus", "yimpus", "chorpus", "dumpus"], "edges": [[1, 2], [2, 3],
     [0, 4], [0, 5], [5, 6], [0, 6]], "root": 1, "target": 3, "neg_target": 4}

ProntoQA asks whether a statement follows from rules, some of which lead astray at every hop of the
proof. problems("prontoqa", 1, seed=3, hops=2):
    {"question": "Yumpuses are hot. Each dumpus is not loud. Every vumpus is a gorpus. Every
     lempus is not bright. Vumpuses are nervous. Shumpuses are zumpuses. Wumpuses are shumpuses.
     Shumpuses are bright. Wumpuses are yumpuses. Shumpuses are dumpuses. Wumpuses are slow. Fae
     is a vumpus. Fae is a wumpus. True or false: Fae is bright.", "steps": ["Fae is a wumpus.
     Wumpuses are shumpuses.", "Fae is a shumpus. Shumpuses are bright.", "Fae is bright."],
     "answer": "True"}

GSM8k-Aug asks for a number, and a step is an equation. problems("gsm8k", 1, seed=3, most_steps=3):
    {"question": "The shop is ten miles away. Emma collects 16 beads a day for 11 days. Then Emma
     finds 27 more beads. Emma sells all of them for $5 each. How many dollars does Emma get?",
     "steps": ["<<11*16=176>>", "<<176+27=203>>", "<<203*5=1015>>"], "answer": "1015"}

A generator has two halves. draw_* makes the skeleton of a problem (a graph, a theory, a story);
word_* puts names and words to it, again and again until the problem falls into the split that was
asked for (see `split_of`). So at no seed and no size do two splits share a problem.
"""
import math
import random
import zlib

from arithmetic import draw_gsm8k, word_gsm8k

# --------------------------------------------------------------------------------------------------
# ProsQA (paper, appendix A). Names, rules and constants are recovered from the released files.

ENTITIES = """Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom
    Wren""".split()
CONCEPTS = """bompus boompus brimpus chorpus dumpus felpus fompus gerpus gorpus grimpus gwompus
    hilpus impus jelpus jompus kerpus lempus lorpus numpus quimpus rempus rompus rorpus scrompus
    shumpus sterpus storpus terpus timpus tumpus vumpus worpus wumpus yerpus yimpus yumpus zhorpus
    zumpus""".split()
POISSON = [1.5**k / math.factorial(k) for k in range(12)]  # relative chance of k parents


def draw_prosqa(rng, nodes, steps, balanced=False, growth=None):
    """Return (edges, path, distractor, steps): a graph, a shortest way to the answer, the wrong
    option, and how the way is written.

    The target is the deepest leaf below only one of nodes 0 and 1, and the distractor any leaf
    below only the other: so depth alone betrays much. Balanced problems have both options at one
    depth and toss a coin for who is asked. Growing problems (see `problems`) are two bare chains
    below growth 1, and then graphs of mixed size. Source: recovered from the released files.
    """
    if growth is not None and growth < 1:
        return *draw_chains(rng, rng.randint(6, 10)), steps
    nodes = nodes if growth is None else rng.randint(6, nodes)
    hops = (3, 4) if nodes >= 20 else (2, 3) if nodes >= 12 else (2,)  # small graphs are shallow
    depth_wanted = rng.choice(hops)  # for balanced problems; the others take hops[0] to 6
    while True:
        parents, family, depth = draw_graph(rng, nodes)
        inner = {parent for above in parents for parent in above}
        leaves = [[node for node in range(2, nodes) if family[node] == own and node not in inner]
                  for own in ({0}, {1})]
        deepest = max((depth[leaf] for leaf in leaves[0] + leaves[1]), default=0)
        if balanced:
            leaves = [[leaf for leaf in side if depth[leaf] == depth_wanted] for side in leaves]
        if all(leaves) and (balanced or hops[0] <= deepest <= 6):
            break

    if balanced:
        target = rng.choice(rng.choice(leaves))
    else:
        target = rng.choice([leaf for leaf in leaves[0] + leaves[1] if depth[leaf] == deepest])
    root = 0 if target in leaves[0] else 1
    distractor = rng.choice(leaves[1 - root])
    path = [target]
    while path[0] != root:
        nearer = [parent for parent in parents[path[0]] if depth[parent] == depth[path[0]] - 1]
        path.insert(0, rng.choice(nearer))

    # A node without any edge occurs in no sentence: drop those, and number the others anew.
    kept = [node for node in range(nodes) if parents[node] or node in inner]
    new = {node: i for i, node in enumerate(kept)}
    edges = [[new[parent], new[node]] for node in kept for parent in parents[node]]
    return edges, [new[node] for node in path], new[distractor], steps


def draw_chains(rng, nodes):
    """Return (edges, path, distractor) of a graph without branches: one chain from each entity."""
    chains, edges = [[0], [1]], []
    for node in range(2, nodes):
        chain = chains[node - 2] if node < 4 else rng.choice(chains)
        edges.append([chain[-1], node])
        chain.append(node)
    path, other = rng.sample(chains, 2)
    return edges, path, other[-1]


def draw_graph(rng, nodes):
    """Return three lists by node: its parents (earlier nodes), its family, and its depth.

    Nodes 0 and 1 are the entities that may be asked about. A node's family is the set of those two
    that it descends from, and its depth the distance to the nearer one, or infinity without any.
    """
    parents, family, depth, weight = [[], []], [{0}, {1}], [0, 0], [1, 1]
    for node in range(2, nodes):
        pool, side = range(node), rng.random()
        if side < 0.80:  # most nodes stay within one family, or soon all would belong to both
            own = {0} if side < 0.35 else {1}
            pool = [old for old in pool if family[old] == own]
        weights = [weight[old] for old in pool]
        above, wanted = [], min(rng.choices(range(12), POISSON)[0], len(pool))
        while len(above) < wanted:
            parent = rng.choices(pool, weights)[0]
            if parent not in above:
                above.append(parent)
        parents.append(above)
        family.append(set().union(*(family[parent] for parent in above)))
        depth.append(1 + min((depth[parent] for parent in above), default=math.inf))
        weight.append(1 + 1.5 * depth[node] if len(family[node]) == 1 else 1)  # favours long chains
    return parents, family, depth


def word_prosqa(rng, edges, path, distractor, steps):
    """Return the record, with the released files' extra keys: the graph, by index of node. A step
    is a sentence for each edge of the path, or just the name of each node."""
    concepts = {child for _, child in edges}
    names = {True: rng.sample(CONCEPTS, len(CONCEPTS)), False: rng.sample(ENTITIES, len(ENTITIES))}
    name = [names[node in concepts].pop() for node in range(max(concepts) + 1)]

    def sentence(parent, child):
        return f"{'Every ' * (parent in concepts)}{name[parent]} is a {name[child]}."

    facts = rng.sample([sentence(*edge) for edge in edges], len(edges))
    root, target = path[0], path[-1]
    option, other = rng.sample([name[target], name[distractor]], 2)
    return {
        "question": " ".join(facts) + f" Is {name[root]} a {option} or {other}?",
        "steps": ([sentence(*edge) for edge in zip(path, path[1:])] if steps == "sentences"
                  else [name[node] for node in path]),
        "answer": f"{name[root]} is a {name[target]}.",
        "idx_to_symbol": name, "edges": edges,
        "root": root, "target": target, "neg_target": distractor,
    }


# --------------------------------------------------------------------------------------------------
# ProntoQA, after its official generator (asaparov/prontoqa at commit f0145b8) with fictional
# concepts, relevant distractors and random order.

PRONTO_ENTITIES = "Alex Fae Max Polly Rex Sally Sam Stella Wren".split()
PRONTO_CONCEPTS = """brimpus dumpus gorpus grimpus impus jompus lempus lorpus numpus rompus shumpus
    sterpus tumpus vumpus wumpus yumpus zumpus""".split()
PROPERTIES = [family.split() for family in (  # no problem uses a family twice
    "blue red brown orange", "small large", "metallic wooden luminous liquid", "transparent opaque",
    "nervous happy feisty shy", "bright dull", "sweet sour spicy bitter", "floral fruity earthy",
    "hot cold temperate", "kind mean angry amenable aggressive", "melodic muffled discordant loud",
    "slow moderate fast", "windy sunny overcast rainy snowy")]


def draw_prontoqa(rng, hops, wording, steps, balanced=False, growth=None):
    """Return (chain, is_a, negated, dropped, wording, steps): who is what, whose property has a
    "not", and how problem and proof are written.

    The chain c1 -> c2 -> .. leads to the property asked about, every ci also to a dead end di;
    e1 -> e2 stands apart; the lure has the opposite property, and is mentioned once only, which
    gives it away. Balanced problems mention it as often as the end of the chain. Growing problems
    (see `problems`) may have a shorter chain, and some, all or none of what distracts is dropped.
    """
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


def word_prontoqa(rng, chain, is_a, negated, dropped, wording, steps):
    """Return the record. A step is a conclusion and the rule applied next, and the last one bare;
    or in bare words the claim, the concepts on the way, and what is concluded."""
    labels = [*negated, "top", "e2", "lure", "x", "y", "z"]
    name = dict(zip(labels, rng.sample(PRONTO_CONCEPTS, len(PRONTO_CONCEPTS))))
    entity, end = rng.choice(PRONTO_ENTITIES), chain[-1]
    adjective = dict(zip(negated, map(rng.choice, rng.sample(PROPERTIES, len(negated)))))
    has = {label: "not " * negated[label] + adjective[label] for label in negated}
    has["lure"] = "not " * (not negated[end]) + adjective[end]

    def a(label):
        return f"{'an' if name[label][0] in 'aeiou' else 'a'} {name[label]}"

    def rule(label, singular, plural):
        form = rng.choice(("plural", "plural", "Each", "Every")) if wording == "mixed" else "Every"
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


# --------------------------------------------------------------------------------------------------
# The entry point.

GENERATORS = {"prosqa": (draw_prosqa, word_prosqa), "prontoqa": (draw_prontoqa, word_prontoqa),
              "gsm8k": (draw_gsm8k, word_gsm8k)}
GENERATED = ("generated", "balanced")  # what --data calls such problems
SIZES = {  # what the official problems have
    "prosqa": {"nodes": 28, "steps": "sentences"},
    "prontoqa": {"hops": 5, "wording": "mixed", "steps": "sentences"},
    "gsm8k": {"max_value": 99999, "most_steps": 5},
}
LIMITS = {
    "nodes": (range(8, 41), "8..40, as there are names for two entities and 38 concepts"),
    "steps": (("sentences", "names"), "sentences or names"),
    "hops": (range(1, 7), "1..6, as the generator has only 17 concept names"),
    "wording": (("mixed", "every"), "mixed or every"),
    "max_value": (range(20, 100000), "20..99999, as smaller numbers leave no room for a story"),
    "most_steps": (range(1, 6), "1..5, as a story has at most four middles"),
}
GROWING_EPOCHS = {"prosqa": 6, "prontoqa": 2}
SPLITS = ("valid", "test", "train", "train")  # by checksum: half of all problems are for training


def problems(task, n, seed, split="train", epoch=0, balanced=False, mixed_size=False, **size):
    """Return n records. Equal arguments give equal records on every machine.

    SIZES has the size keywords of each task with their official values, LIMITS their range; epoch
    gives fresh problems of the same split. Balanced problems lack the shortcuts of the official
    ones. mixed_size mixes in easier ones: only the easiest in epoch 0 (growth 0), all sizes from
    GROWING_EPOCHS on (growth 1). Raises ValueError, in a sentence, for arguments that are unknown
    or out of range.
    """
    check(task, split, balanced, mixed_size, size)
    draw, word = GENERATORS[task]
    options = SIZES[task] | size
    if balanced:
        options["balanced"] = True
    if mixed_size:
        options["growth"] = min(1, epoch / GROWING_EPOCHS[task])
    rng = random.Random(f"{task} {seed} {split} {epoch}")
    records = []
    for _ in range(n):
        skeleton = draw(rng, **options)
        record = word(rng, *skeleton)
        while split_of(record["question"]) != split:
            record = word(rng, *skeleton)
        records.append(record)
    return records


def split_of(question):
    """Return the one split a question may occur in. Its facts decide, in any order, and not what is
    asked about them. Every rewording draws a new checksum, so that no skeleton is favoured."""
    *facts, _asked = question.split(". ")
    return SPLITS[zlib.crc32(" ".join(sorted(facts)).encode()) % len(SPLITS)]


def check(task, split, balanced, mixed_size, size):
    """Raise ValueError for arguments that `problems` cannot serve."""
    if task not in SIZES:
        raise ValueError(f"task must be one of {', '.join(SIZES)} (got {task!r})")
    if split not in SPLITS:
        raise ValueError(f"split must be train, valid or test (got {split!r})")
    if balanced and task == "gsm8k":
        raise ValueError("balanced must be off for gsm8k: only prosqa and prontoqa have it")
    if mixed_size and task == "gsm8k":
        raise ValueError("mixed_size must be off for gsm8k: its problems are of mixed size anyway")
    for name, value in size.items():
        if name not in SIZES[task]:
            raise ValueError(f"{name} is no size of {task}, which has {', '.join(SIZES[task])}")
        allowed, text = LIMITS[name]
        if isinstance(value, float) or value not in allowed:
            raise ValueError(f"{name} must be {text} (got {value!r})")
    if balanced and size.get("hops") == 6:
        raise ValueError("hops must be 1..5 if balanced, as that takes 3 names more (got 6)")
