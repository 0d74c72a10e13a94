"""
What a model makes of ProsQA's graphs: the part of the paper's analysis (section 4) that is for this
task alone. A Probe is that of thoughts.py.
"""
from dataclasses import replace
from statistics import mean

import torch
import torch.nn.functional as F

from curriculum import NO_LOSS
from data import collate, encode_question, markers_of
from model import think
from tasks.prosqa import Graph, shortest_ways
from tasks.record import UserError


def tree(probe, index=0):
    """Show which nodes of ProsQA's graphs a run has in mind: of problem --index and on average.

    nodes: hops from who is asked about, whether on a shortest way (optimal), values after 0, 1, ..
    thoughts, cosines with each. frontier: the mean sum of the 1, 2, 3 highest values of the nodes k
    hops away (at k = 0 one) after k thoughts (paper, Figure 6). superposition: mean cosine (number
    of nodes) of thought k with nodes out of reach, within k hops, at k (arXiv 2505.12514). A
    control: of a run with pauses it looks at the states before them."""
    if probe.s.c_thought > 1:
        raise UserError(f"tree takes a thought for a hop, but the run has {probe.s.c_thought} for "
                        "each step")
    if index >= len(probe.examples):
        raise UserError(f"--index must be 0 to {len(probe.examples) - 1}")
    problems, frontier, superposition = [nodes_of(probe, e) for e in probe.examples], [], []
    for k in range(probe.k + 1):
        best = [sorted(node["values"][k] for node in nodes if node["hops"] == max(1, k))[::-1]
                for nodes in problems]
        if best := [values for values in best if len(values) > 1]:
            frontier.append({"thoughts": k, "problems": len(best)} | {
                f"{top} highest": mean(sum(values[:top]) for values in best) for top in (1, 2, 3)})
    for k in range(probe.k):
        away = k + (probe.s.steps != "names")  # the first name is that of who is asked about
        nodes = [node for some in problems for node in some if node["cosines"]]
        reached = [node for node in nodes if node["hops"] is not None and node["hops"] <= away]
        there = [node for node in reached if node["hops"] == away]
        groups = {"not reachable": [node for node in nodes if node["hops"] is None],
                  "reachable": reached, "frontier": there,
                  "optimal": [node for node in there if node["optimal"]]}
        superposition.append({"thought": k + 1} | {
            kind: f"{mean(node['cosines'][k] for node in some):+.3f} ({len(some)})" if some else "-"
            for kind, some in groups.items()})
    return {"n": len(problems), "question": probe.examples[index].question, "nodes":
            problems[index], "frontier": frontier, "superposition": superposition}


def nodes_of(probe, example):
    """The concepts of a problem, as `tree` has them, by their distance from who is asked about."""
    graph, alone = Graph(example), replace(probe, examples=[example])
    thoughts, = alone.thoughts(probe.k, or_pauses=True)  # (k, C)
    reached, way, nodes = graph.below(graph.root), shortest_ways(graph), []
    values = [node_values(probe, example, k) for k in range(probe.k + 1)]
    for node in graph.concepts:
        first, *more = probe.enc.encode_ordinary(" " + node)
        cosines = F.cosine_similarity(probe.model.wte.weight[first], thoughts, dim=-1).tolist()
        nodes.append({"node": node, "hops": reached.get(node), "height": graph.height(node),
                      "leads to": " ".join(graph.children.get(node, ())), "optimal": node in way,
                      "values": [after[node] for after in values],
                      "cosines": None if more else cosines})  # a name of one token has them
    return sorted(nodes, key=lambda node: (node["hops"] is None, node["hops"], node["node"]))


@torch.no_grad()
def node_values(probe, example, k):
    """{node: value}: how likely each concept of a ProsQA problem is named next after k thoughts.
    The words that lead there, "Every" or at first "Tom is a", and before a bare name none or at
    first "Tom", are given; a value is the product over the name's tokens (section 4.3)."""
    enc, graph, device = probe.enc, Graph(example), probe.model.wte.weight.device
    first, later = ((f" {graph.root}", "") if probe.s.steps == "names" else
                    (f"{graph.root} is a", "Every"))
    given = replace(probe, examples=[example]).prompts(k)[0] + enc.encode_ordinary(
        later if k else first)
    start = len(encode_question(example.question, enc)) + 1
    names = [enc.encode_ordinary(" " + node) for node in graph.concepts]
    rows = [(given + name, [NO_LOSS] * len(given) + name, start) for name in names]
    ids, targets, is_thought, is_real, start = collate(rows, markers_of(enc).thought, device)
    hidden, _ = think(probe.model, ids, is_thought, is_real, start)
    logits = probe.model.lm_head(hidden[:, :-1])  # a state predicts the token one column on
    nats = F.cross_entropy(logits.transpose(1, 2), targets[:, start:], reduction="none")
    return dict(zip(graph.concepts, (-nats.sum(dim=1)).exp().tolist()))  # 0 nats where no target
