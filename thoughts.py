"""
Look into the thoughts of a trained model: the paper's analysis (section 4), and the controls that
it lacks. `python analyze.py COMMAND RUN` runs each of these on a checkpoint:

    sweep           fewer or more thoughts than it was trained with: accuracy, and kinds of answer
    tree            which nodes of a ProsQA graph it has in mind after each thought
    superposition   whether a thought lies near to the embeddings of the nodes that it stands for
    intervene       whether the answer needs the thoughts: replace them by something else
    decode          what tokens the thoughts are near to

Each is a function from a Probe, a model with its problems, to a dict that JSON can hold; analyze.py
prints and draws it. To measure something else, write another one.
"""
import math
import random
import re
from collections import Counter
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F

from curriculum import NO_LOSS, Curriculum, n_thoughts, prompt
from data import collate, encode, encode_question, is_correct, markers_of
from evaluate import prompts_of, written_answers
from model import GPT, think
from shortcuts import distances, read_prosqa, shortcut_accuracy


@dataclass
class Probe:
    """A trained model, and the problems to look at it with."""
    model: GPT
    enc: object  # tiktoken.Encoding
    examples: list  # Examples of text
    task: str
    c: Curriculum
    stage: int  # that the training has reached
    max_new_tokens: int
    batch_size: int = 64
    names: bool = False  # ProsQA: it learned steps that are names of nodes, no sentences

    @property
    def k(self):
        """The thoughts that the model was trained with at last."""
        return n_thoughts(self.stage, self.c)

    def prompts(self, k):
        return prompts_of(self.examples, k, self.c, self.enc)

    def written(self, k, edit_of=None):
        """What it writes after k thoughts, see evaluate.written_answers."""
        return written_answers(self.model, self.prompts(k), self.enc, self.batch_size,
                               self.max_new_tokens, edit_of)

    def right(self, written):
        """Whether each answer is right."""
        return [is_correct(text, e.answer) for (text, _), e in zip(written, self.examples)]

    def thoughts(self, k):
        """(examples, k, C): the k thoughts of every example. ValueError for a run without any."""
        if k == 0:
            raise ValueError("this run is at stage 0, which has no thoughts to look at")
        prompts = self.prompts(k)
        return torch.cat([thoughts_after(self.model, prompts[i:i + self.batch_size], self.enc)
                          for i in range(0, len(prompts), self.batch_size)])


@torch.no_grad()
def thoughts_after(model, prompts, enc):
    """(prompts, k, C): the thoughts of prompts that have k each; k may be 0."""
    sequences = [(ids, ids) for ids in prompts]
    ids, _, thought, real = collate(sequences, markers_of(enc).thought, model.wte.weight.device)
    before = F.pad(thought, (0, 1))[:, 1:]  # a thought is the state of the column before
    k = int(thought.sum()) // len(prompts)
    return think(model, ids, thought, real)[before].view(len(prompts), k, model.config.n_embd)


@torch.no_grad()
def nearest_tokens(model, thoughts, enc, top):
    """[[(token, probability), ..], ..]: for each of the thoughts (k, C) its `top` tokens."""
    best = model.lm_head(thoughts).softmax(dim=-1).topk(top)  # (k, top)
    return [[(enc.decode([token]), p) for token, p in zip(tokens, probabilities)]
            for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist())]


def accuracy_of(right):
    """Its share and interval, of a list of whether each answer is right."""
    return {"accuracy": mean(right), "interval": interval(sum(right), len(right))}


def interval(right, n):
    """The 95 % confidence interval of a share, by Wilson's formula."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)  # rounding may lead outside


# --------------------------------------------------------------------------------------------------
# sweep

CATEGORIES = ["correct path", "longer path", "correct label", "incorrect label", "wrong target",
              "hallucination"]


def sweep(probe, most):
    """Accuracy and tokens after 0 .. most thoughts, and for ProsQA the shares of CATEGORIES, as in
    the paper's Figure 3. Only a model trained with --uniform_prob has seen them all."""
    rows = []
    for k in range(most + 1):
        written = probe.written(k)
        row = {"thoughts": k, **accuracy_of(probe.right(written)),
               "tokens": k + mean(length for _, length in written)}
        if probe.task == "prosqa":
            count = Counter(category(e, text) for (text, _), e in zip(written, probe.examples))
            row |= {name: count[name] / len(written) for name in CATEGORIES}
        rows.append(row)
    return {"n": len(probe.examples), "rows": rows}


@dataclass
class Graph:
    """A ProsQA problem, read off its text."""
    children: dict  # node: list of nodes
    concepts: list  # all nodes but the entities
    root: str
    target: str
    options: list

    def __init__(self, example):
        edges, self.root, self.options = read_prosqa(example.question)
        self.children = {}
        for parent, child in edges:
            self.children.setdefault(parent, []).append(child)
        self.concepts = sorted({child for _, child in edges})
        self.target = re.search(r"(\w+)\.$", example.answer)[1]

    def below(self, node):
        """{node: hops to it} of all that can be reached."""
        return distances(node, self.children)

    def height(self, node):
        """Hops to the nearest leaf (paper, section 4.4; its Figure 5 says the farthest)."""
        return min(hops for leaf, hops in self.below(node).items() if leaf not in self.children)

    def leads_to_target(self, node):
        return self.target in self.below(node)


def category(example, written):
    """Which of CATEGORIES an answer belongs to. Steps that were thought are not written, so a path
    may begin anywhere below the one who is asked about; it is then the best that goes on so."""
    graph = Graph(example)
    steps, _, label = written.partition("###")
    sentences, names = re.findall(r"(\w+) is a (\w+)", steps), steps.split()
    if not names:
        return "correct label" if is_correct(written, example.answer) else "incorrect label"
    edges = sentences or list(zip(names, names[1:]))  # a step may be a bare name, too
    nodes = [parent for parent, _ in edges] + [edges[-1][1] if edges else names[0]]
    reached = graph.below(graph.root)
    connected = all(child == node for (_, child), node in zip(edges, nodes[1:]))
    real = all(child in graph.children.get(parent, ()) for parent, child in edges)
    if not (connected and real and nodes[0] in reached):
        return "hallucination"
    if nodes[-1] != graph.target:
        return "wrong target"
    hops = reached[nodes[0]] + len(edges)
    return "correct path" if hops == reached[graph.target] else "longer path"


# --------------------------------------------------------------------------------------------------
# tree

@torch.no_grad()
def node_values(probe, examples, k):
    """[{node: value}, ..]: how likely each concept of a ProsQA problem is named next after k
    thoughts. The words that lead there, "Every" or at first "Tom is a", and before a bare name none
    or at first "Tom", are forced; a value is the product of the probabilities of the name's tokens
    (paper, section 4.3)."""
    enc, marks = probe.enc, markers_of(probe.enc)
    sequences, owners = [], []
    for i, example in enumerate(examples):
        graph = Graph(example)
        first, later = (f" {graph.root}", "") if probe.names else (f"{graph.root} is a", "Every")
        given = prompt(encode_question(example.question, enc), k, probe.c, marks)
        given += enc.encode_ordinary(later if k else first)
        for node in graph.concepts:
            name = enc.encode_ordinary(" " + node)
            sequences.append((given + name, [NO_LOSS] * len(given) + name))
            owners.append((i, node))
    values = [{} for _ in examples]
    for start in range(0, len(sequences), 4 * probe.batch_size):
        some = sequences[start:start + 4 * probe.batch_size]
        ids, targets, thought, real = collate(some, marks.thought, probe.model.wte.weight.device)
        hidden, targets = think(probe.model, ids, thought, real)[:, :-1], targets[:, 1:]
        named = targets != NO_LOSS
        logits = probe.model.lm_head(hidden[named])
        log_p = torch.zeros(targets.shape, device=logits.device)
        log_p[named] = -F.cross_entropy(logits, targets[named], reduction="none")
        for (i, node), p in zip(owners[start:], log_p.sum(dim=1).exp().tolist()):
            values[i][node] = p
    return values


def tree(probe, index):
    """The values of all nodes of one problem after 0, 1, .. thoughts, beside what the graph says:
    hops from the one who is asked about (None: cannot be reached), height, and whether a shortest
    way to the answer goes through."""
    example = probe.examples[index]
    graph = Graph(example)
    reached, way = graph.below(graph.root), shortest_ways(graph)
    steps = [node_values(probe, [example], k)[0] for k in range(probe.k + 1)]
    nodes = [{"node": node, "hops": reached.get(node), "height": graph.height(node),
              "optimal": node in way, "values": [values[node] for values in steps]}
             for node in steps[0]]
    nodes.sort(key=lambda node: (node["hops"] is None, node["hops"], node["node"]))
    return {"question": example.question, "answer": example.answer, "root": graph.root,
            "target": graph.target, "children": graph.children, "nodes": nodes}


def shortest_ways(graph):
    """The nodes on any shortest way from the root to the target."""
    down = graph.below(graph.root)
    return {node for node in down if graph.target in graph.below(node)
            and down[node] + graph.below(node)[graph.target] == down[graph.target]}


def frontier(probe):
    """How the frontier is valued over all problems, for the paper's Figures 6 and 7.

    After k thoughts the candidates are the nodes k hops from the one who is asked about (one hop at
    k = 0 and 1, as the first step names that one). parallelism: for k, the sums of the 1, 2, 3
    highest values, sorted. heights: for k and each height, the mean value of candidates that lead
    to the target and of those that do not.
    """
    result = {"n": len(probe.examples), "parallelism": [], "heights": []}
    graphs = [Graph(example) for example in probe.examples]
    for k in range(probe.k + 1):
        tops, by_height = [], {}
        for graph, values in zip(graphs, node_values(probe, probe.examples, k)):
            reached = graph.below(graph.root)
            candidates = [node for node in values if reached.get(node) == max(1, k)]
            if len(candidates) < 2:
                continue
            best = sorted((values[node] for node in candidates), reverse=True)
            tops.append([sum(best[:top]) for top in (1, 2, 3)])
            for node in candidates:
                kind = (graph.height(node), graph.leads_to_target(node))
                by_height.setdefault(kind, []).append(values[node])
        result["parallelism"].append({"thoughts": k, "problems": len(tops),
                                      "top": [sorted(row[i] for row in tops) for i in range(3)]})
        result["heights"] += [{"thoughts": k, "height": height, "correct": correct,
                               "value": mean(some), "nodes": len(some)}
                              for (height, correct), some in sorted(by_height.items())]
    return result


# --------------------------------------------------------------------------------------------------
# superposition

def superposition(probe):
    """Mean cosine of each thought with the embeddings of nodes: those that cannot be reached, those
    that can within the thought's number of hops, those at just that many (the frontier), and those
    on a shortest way at that distance. After "Reasoning by Superposition", arXiv 2505.12514; needs
    names of one token."""
    thoughts = F.normalize(probe.thoughts(probe.k), dim=-1)  # (examples, k, C)
    table = F.normalize(probe.model.wte.weight, dim=-1)
    rows = []
    for k in range(probe.k):
        distance = k if probe.names else k + 1  # the first of the names is that of the root
        groups = {"not reachable": [], "reachable": [], "frontier": [], "optimal": []}
        for example, thought in zip(probe.examples, thoughts[:, k]):
            graph = Graph(example)
            reached, way = graph.below(graph.root), shortest_ways(graph)
            for node in graph.concepts:
                ids = probe.enc.encode_ordinary(" " + node)
                if len(ids) > 1:
                    raise ValueError(f"superposition needs names of one token, but {node!r} has "
                                     f"{len(ids)}: take a run with --tokenizer word")
                cosine = (table[ids[0]] @ thought).item()
                hops = reached.get(node)
                member = {"not reachable": hops is None,
                          "reachable": hops is not None and hops <= distance,
                          "frontier": hops == distance,
                          "optimal": hops == distance and node in way}
                for name in groups:
                    if member[name]:
                        groups[name].append(cosine)
        rows.append({"thought": k + 1, **{
            name: {"mean": mean(some), "nodes": len(some)} if some else None
            for name, some in groups.items()}})
    return {"n": len(probe.examples), "rows": rows}


# --------------------------------------------------------------------------------------------------
# intervene

def intervene(probe, seed=0):
    """Accuracy with every thought replaced, beside the intact one and the rules of shortcuts.py."""
    model, k = probe.model, probe.k
    thoughts = probe.thoughts(k)  # (examples, k, C)
    noise = torch.randn(thoughts.shape, generator=torch.Generator().manual_seed(seed))
    noise = noise.to(thoughts.device)
    norm = thoughts.norm(dim=-1, keepdim=True)
    nearest = model.wte.weight[model.lm_head(thoughts).argmax(dim=-1)].detach()
    others = derangement(len(thoughts), random.Random(seed))
    table = {
        "zero": (torch.zeros_like(thoughts),
                 "what a thought holds is not needed, only its column"),
        "noise of the same norm": (norm * F.normalize(noise, dim=-1),
                                   "the thoughts are ignored, whatever they hold"),
        "mean over the problems": (thoughts.mean(dim=0).expand_as(thoughts),
                                   "nothing of this problem is in the thoughts themselves"),
        "of another problem": (thoughts[others],
                               "the answer is read off the question, not off the thoughts"),
        "embedding of the nearest token": (nearest,
                                           "a thought is a word in disguise"),
        "the same, as long as the thought": (norm * F.normalize(nearest, dim=-1),
                                             "a thought is the direction of a word"),
    }
    trials = [("intact", None, "")]
    trials += [(name, lambda rows, values=values: lambda i, _: values[rows, i], meaning)
               for name, (values, meaning) in table.items()]
    trials += [(f"frozen from thought {i + 1} on", freeze(i),
                f"thoughts after the {i + 1}. add nothing") for i in range(k - 1)]
    rows = []
    for name, edit_of, meaning in trials:
        rows.append({"thoughts": name, **accuracy_of(probe.right(probe.written(k, edit_of))),
                     "if as good as intact": meaning})
    return {"n": len(probe.examples), "rows": rows,
            "shortcuts": shortcut_accuracy(probe.task, probe.examples)}


def derangement(n, rng):
    """A random order of 0 .. n - 1 in which nothing stays where it was."""
    if n < 2:
        raise ValueError("two problems or more are needed to exchange thoughts")
    order = rng.sample(range(n), n)
    other = {a: b for a, b in zip(order, order[1:] + order[:1])}
    return [other[i] for i in range(n)]


def freeze(last):
    """An `edit_of` by which every thought after number `last` is that one again."""
    def edit_of(rows):
        kept = {}

        def edit(k, value):
            return kept.setdefault(min(k, last), value)
        return edit
    return edit_of


# --------------------------------------------------------------------------------------------------
# decode

def decode(probe, top=5):
    """For every problem and thought the tokens it is nearest to by the LM head, with their
    probabilities, its norm, and its cosine with the thought before.

    rows: for every thought the shares of problems in which its nearest token is the first of step
    1, 2, .. or of the answer, were they written.
    """
    found = []
    for example, thoughts in zip(probe.examples, probe.thoughts(probe.k)):
        tokens = nearest_tokens(probe.model, thoughts, probe.enc, top)
        cosines = [None, *F.cosine_similarity(thoughts[1:], thoughts[:-1]).tolist()]
        found.append({"question": example.question, "steps": example.steps,
                      "answer": example.answer, "thoughts": [
                          {"tokens": [token for token, _ in near],
                           "probabilities": [p for _, p in near], "norm": norm,
                           "cosine with the one before": cosine}
                          for near, norm, cosine in zip(tokens, thoughts.norm(dim=-1).tolist(),
                                                        cosines)]})
    written = [first_tokens(example, probe.enc) for example in probe.examples]
    rows = [{"thought": i + 1} | {
        part: mean(problem["thoughts"][i]["tokens"][0] == firsts.get(part)
                   for problem, firsts in zip(found, written))
        for part in max(written, key=len)} for i in range(probe.k)]
    return {"n": len(found), "rows": rows, "problems": found}


def first_tokens(example, enc):
    """{"step 1": text of its first token, .., "answer": that of the answer's}."""
    ids = encode(example, enc)
    firsts = {f"step {i}": step[0] for i, step in enumerate(ids.steps, start=1)}
    return {part: enc.decode([token])
            for part, token in {**firsts, "answer": ids.answer[0]}.items()}
