"""
ProsQA asks which of two concepts an entity is (paper, appendix A).

The sentences of a question are the edges of a graph, in which the entity leads to one option and
somebody else to the other. The released files are lists of such records; their names, and how
their graphs are drawn, were recovered from them. One small record, exactly as
problems("prosqa", 1, seed=330, nodes=8) returns it:
    {"question": "Sam is a yumpus. Every yumpus is a dumpus. Fae is a worpus. Is Sam a dumpus or
     worpus?", "steps": ["Sam is a yumpus.", "Every yumpus is a dumpus."], "answer": "Sam is a
     dumpus.", "idx_to_symbol": ["Fae", "Sam", "yumpus", "dumpus", "worpus"], "edges": [[1, 2],
     [2, 3], [0, 4]], "root": 1, "target": 3, "neg_target": 4}
"""
import math
import re
from bisect import bisect
from itertools import accumulate

from tasks.record import STEPS, Size, UserError, is_correct

URL = "https://raw.githubusercontent.com/facebookresearch/coconut/main/data/prosqa_{}.json"
OFFICIAL = {
    "prosqa_train.json": (URL.format("train"), "cf26632b9d3f4e812966563eed769b1cfe40c624"),
    "prosqa_valid.json": (URL.format("valid"),
                          "c74e0de24f1e90ec48b1a993e6458a7be4caeef3928f5104e3c2e45d689a5249"),
    "prosqa_test.json": (URL.format("test"),
                         "82ddc0afe6ee30eb31bb16fa208e293e55278a20fa987098d48519cae7e12680")}
SIZES = {"nodes": Size(28, range(8, 41), "8..40, as there are names for 2 entities, 38 concepts"),
         "steps": STEPS}
BALANCED = GROWS = True
SCRATCH = {
    "nodes": 8, "steps": "names", "grow": 2, "eot": False, "extra_stage": True, "epochs_stage_0": 3,
    "epochs": 10, "learning_rate": 6e-3,
    # 6 hops, or mostly up to 3 in small graphs. If steps are names, who is asked about is one, too.
    "max_latent_stage": lambda size: (6 if size["nodes"] >= 20 else 3) + (size["steps"] == "names")}
PAPER = {"n_train": 17886, "n_valid": 300, "icot_all_beyond": 72}

ENTITIES = """Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom
    Wren""".split()
CONCEPTS = """bompus boompus brimpus chorpus dumpus felpus fompus gerpus gorpus grimpus gwompus
    hilpus impus jelpus jompus kerpus lempus lorpus numpus quimpus rempus rompus rorpus scrompus
    shumpus sterpus storpus terpus timpus tumpus vumpus worpus wumpus yerpus yimpus yumpus zhorpus
    zumpus""".split()
PARENTS = [*accumulate(1.5**k / math.factorial(k) for k in range(12))]  # of at most k parents


def draw(rng, nodes, steps, balanced=False, growth=None):
    """Return (edges, path, distractor, steps): a graph, a shortest path from who is asked about to
    the answer, the wrong option, and how the path is written.

    The answer is the deepest leaf below only one of nodes 0 and 1, and the distractor any leaf
    below only the other: so depth alone betrays much. Balanced problems have both at one depth, and
    toss a coin for who is asked about. Growing problems (see common.problems) are two bare chains
    below growth 1, and then graphs of 8 nodes to all."""
    if growth is not None and growth < 1:
        return *draw_chains(rng, rng.randint(6, 10)), steps
    nodes = nodes if growth is None else rng.randint(8, nodes)
    hops = (3, 4) if nodes >= 20 else (2, 3) if nodes >= 12 else (2,)  # small graphs are shallow
    depth_wanted = rng.choice(hops)  # of balanced problems; the others have hops[0] to 6
    leaves, deepest = ([], []), 0
    while not (all(leaves) and hops[0] <= deepest <= 6):
        parents, family, depth = draw_graph(rng, nodes)
        inner = {parent for above in parents for parent in above}
        leaves = [[node for node in range(2, nodes) if family[node] == own and node not in inner
                   and (not balanced or depth[node] == depth_wanted)] for own in (1, 2)]
        deepest = max((depth[leaf] for leaf in leaves[0] + leaves[1]), default=0)
    target = rng.choice(rng.choice(leaves) if balanced else
                        [leaf for leaf in leaves[0] + leaves[1] if depth[leaf] == deepest])
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

    Nodes 0 and 1 are the entities that may be asked about. A node's family is 1 if it descends from
    node 0, 2 if from node 1, 3 if from both, 0 if from neither. Its depth is the distance to the
    nearer of them, or infinity."""
    parents, family, depth = [[], []], [1, 2], [0, 0]
    pools = {1: ([0], [1]), 2: ([1], [1]), "all": ([0, 1], [1, 2])}  # nodes, their summed weights
    for node in range(2, nodes):
        side = rng.random()  # most nodes stay within one family, or soon all would belong to both
        pool, summed = pools[1 if side < 0.35 else 2 if side < 0.80 else "all"]
        above, own = [], 0
        wanted = min(bisect(PARENTS, rng.random() * PARENTS[-1]), len(pool))
        while len(above) < wanted:
            parent = pool[bisect(summed, rng.random() * summed[-1])]
            if parent not in above:
                above.append(parent)
                own |= family[parent]
        parents.append(above)
        family.append(own)
        depth.append(1 + min([depth[parent] for parent in above], default=math.inf))
        weight = 1 + 1.5 * depth[node] if own in (1, 2) else 1  # favours long chains
        for pool, summed in [pools[key] for key in (own, "all") if key in pools]:
            pool.append(node)
            summed.append(summed[-1] + weight)
    return parents, family, depth


def word(rng, edges, path, distractor, steps):
    """Return the record, with the released files' extra keys: the graph, by index of node. The
    steps are the sentences of the path's edges, or only the names of its nodes."""
    concepts = {child for _, child in edges}
    names = {True: rng.sample(CONCEPTS, len(CONCEPTS)), False: rng.sample(ENTITIES, len(ENTITIES))}
    name = [names[node in concepts].pop() for node in range(max(concepts) + 1)]

    def sentence(parent, child):
        return f"{'Every ' * (parent in concepts)}{name[parent]} is a {name[child]}."

    facts = rng.sample([sentence(*edge) for edge in edges], len(edges))
    root, target = path[0], path[-1]
    option, other = rng.sample([name[target], name[distractor]], 2)
    return {"question": " ".join(facts) + f" Is {name[root]} a {option} or {other}?",
            "steps": ([sentence(*edge) for edge in zip(path, path[1:])] if steps == "sentences"
                      else [name[node] for node in path]),
            "answer": f"{name[root]} is a {name[target]}.", "idx_to_symbol": name, "edges": edges,
            "root": root, "target": target, "neg_target": distractor}


def read_question(question):
    """Return ([(parent, child), ..], who is asked about, [the two options]) of a ProsQA question.
    Raises UserError if it is worded otherwise."""
    asked = re.search(r"Is (\w+) a (\w+) or (\w+)\?$", question)
    if not asked:
        raise UserError(f"{question[-40:]!r} does not end as ProsQA's do: Is Max a apus or bpus?")
    entity, *options = asked.groups()
    return re.findall(r"(\w+) is a (\w+)\.", question), entity, options


def guesses(question):
    """Return {shortcut: its answer, or None if it sees no difference}. None of them looks at who is
    asked about. Raises UserError if the question is worded otherwise."""
    edges, entity, options = read_question(question)
    parents = {child: [p for p, c in edges if c == child] for _, child in edges}
    if not parents.keys() >= {*options}:
        raise UserError(f"no sentence says what is a {' or a '.join(options)}")
    above = [distances(option, parents) for option in options]
    nearest = [min((hops for node, hops in found.items() if node not in parents), default=math.inf)
               for found in above]
    scores = {  # of the two options; a shortcut bets on the higher one
        "first option": (1, 0),
        "fewer mentions": [-len(parents[option]) for option in options],
        "first mentioned later": [question.index(f" {option}.") for option in options],
        "not within 2 hops of anybody": [hops > 2 for hops in nearest],
        "farther from its nearest entity": nearest,
        "more ancestors": [len(found) for found in above]}
    return {shortcut: None if first == second else f"{entity} is a {options[first < second]}."
            for shortcut, (first, second) in scores.items()}


def distances(node, neighbors):
    """Return {node that can be reached: over how many edges}, with the node itself at 0.
    neighbors: {node: [those one edge away]}, its parents, say, or its children."""
    found, frontier = {node: 0}, [node]
    for here in frontier:
        for there in neighbors.get(here, ()):
            if there not in found:
                found[there] = found[here] + 1
                frontier.append(there)
    return found


class Graph:
    """A ProsQA problem, read off its text; a node is its name. UserError for another wording."""

    def __init__(self, example):
        edges, self.root, self.options = read_question(example.question)
        self.children = {parent: [c for p, c in edges if p == parent] for parent, _ in edges}
        self.concepts = sorted({child for _, child in edges})  # all but the entities
        self.target = example.answer.split(" ")[-1].rstrip(".")
        if self.target not in self.concepts:
            raise UserError(f"the answer {example.answer!r} names none of the problem's concepts")

    def below(self, node):
        """{node that can be reached: over how many edges}, with the node itself at 0."""
        return distances(node, self.children)

    def height(self, node):
        """Edges to the nearest leaf (paper, section 4.4; its Figure 5 says the farthest).
        UserError if there is none, which in ProsQA's own problems cannot be."""
        leaves = [hops for leaf, hops in self.below(node).items() if leaf not in self.children]
        if not leaves:
            raise UserError(f"the rules below {node} lead round in a circle, and nowhere else")
        return min(leaves)


def shortest_ways(graph):
    """Return the set of nodes on any shortest path from the root to the target."""
    down = graph.below(graph.root)
    return {node for node, hops in down.items()
            if hops + graph.below(node).get(graph.target, math.inf) == down.get(graph.target)}


CATEGORIES = ["correct path", "longer path", "correct label", "incorrect label", "wrong target",
              "hallucination"]


def category(example, written):
    """Return which of CATEGORIES (paper, section 4) an answer belongs to. Steps that were thought
    are not written: a path may begin anywhere below the root, and is then the best that ends so."""
    graph, steps = Graph(example), written.partition("###")[0]
    names = steps.split()
    if not names:
        return "correct label" if is_correct(written, example.answer) else "incorrect label"
    edges = re.findall(r"(\w+) is a (\w+)", steps) or list(zip(names, names[1:]))
    path = [edges[0][0], *(child for _, child in edges)] if edges else names
    connected = [parent for parent, _ in edges] == path[:-1]
    real = all(child in graph.children.get(parent, ()) for parent, child in edges)
    reached = graph.below(graph.root)
    if not (connected and real and path[0] in reached):
        return "hallucination"
    if path[-1] != graph.target:
        return "wrong target"
    hops = reached[path[0]] + len(edges)
    return "correct path" if hops == reached[graph.target] else "longer path"
