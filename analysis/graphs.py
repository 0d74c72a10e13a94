"""
What a model makes of ProsQA's graphs: the part of the paper's analysis (section 4) that is for this
task alone. A Probe is that of thoughts.py, a model with its problems.
"""
from statistics import mean

import torch
import torch.nn.functional as F

from curriculum import NO_LOSS, prompt
from data import collate, encode_question, markers_of
from model import think
from tasks.prosqa import Graph, shortest_ways
from tasks.record import UserError


@torch.no_grad()
def node_values(probe, examples, k):
    """[{node: value}, ..]: how likely each concept of a ProsQA problem is named next after k
    thoughts. The words that lead there, "Every" or at first "Tom is a", and before a bare name none
    or at first "Tom", are given; a value is the product over the name's tokens (section 4.3)."""
    enc, marks = probe.enc, markers_of(probe.enc)
    rows, owners = [], []
    for i, example in enumerate(examples):
        graph, question = Graph(example), encode_question(example.question, enc)
        first, later = (f" {graph.root}", "") if probe.names else (f"{graph.root} is a", "Every")
        given = prompt(question, k, probe.c, marks) + enc.encode_ordinary(later if k else first)
        for node in graph.concepts:
            name = enc.encode_ordinary(" " + node)
            rows.append((given + name, [NO_LOSS] * len(given) + name,
                         len(question) + 1))  # thoughts begin after the question and <|bot|>
            owners.append((i, node))
    values = [{} for _ in examples]
    for begin in range(0, len(rows), 4 * probe.batch_size):
        some = rows[begin:begin + 4 * probe.batch_size]
        ids, targets, is_thought, is_real, start = collate(some, marks.thought,
                                                           probe.model.wte.weight.device)
        hidden, _ = think(probe.model, ids, is_thought, is_real, start)
        targets = targets[:, start:]  # a state predicts the token one column on
        named = targets != NO_LOSS
        logits = probe.model.lm_head(hidden[:, :-1][named])
        log_p = torch.zeros(targets.shape, device=logits.device)
        log_p[named] = -F.cross_entropy(logits, targets[named], reduction="none")
        for (i, node), p in zip(owners[begin:], log_p.sum(dim=1).exp().tolist()):
            values[i][node] = p
    return values


def tree(probe, example):
    """The values of all nodes of one problem after 0, 1, .. thoughts, as beside_graph has them."""
    steps = [node_values(probe, [example], k)[0] for k in range(probe.k + 1)]
    return beside_graph(example, {node: [step[node] for step in steps] for node in steps[0]})


def beside_graph(example, values):
    """What the graph of a problem says of its nodes, beside {node: [values]}: hops from the root,
    who is asked about, or None, height, and whether it is on a shortest way."""
    graph = Graph(example)
    reached, way = graph.below(graph.root), shortest_ways(graph)
    nodes = [{"node": node, "hops": reached.get(node), "height": graph.height(node),
              "optimal": node in way, "values": of_node} for node, of_node in values.items()]
    nodes.sort(key=lambda node: (node["hops"] is None, node["hops"], node["node"]))
    return {"question": example.question, "answer": example.answer, "root": graph.root,
            "target": graph.target, "children": graph.children, "nodes": nodes}


def frontier(probe):
    """How the frontier is valued over all problems, for the paper's Figures 6 and 7.

    After k thoughts the candidates are the nodes k hops from the one who is asked about (one hop at
    k = 0 and 1, as the first step names that one). parallelism: for k, the sums of the 1, 2, 3
    highest values, sorted. heights: for k and each height, the mean value of candidates that lead
    to the target and of those that do not."""
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


def cosines(probe):
    """[{node: [its embedding's cosine with each thought]}, ..] of the problems. UserError if a
    name has several tokens."""
    table = F.normalize(probe.model.wte.weight, dim=-1)
    found = []
    for example, thoughts in zip(probe.examples, F.normalize(probe.thoughts(probe.k), dim=-1)):
        concepts = Graph(example).concepts
        ids = [probe.enc.encode_ordinary(" " + node) for node in concepts]
        longer = [node for node, some in zip(concepts, ids) if len(some) > 1]
        if longer:
            raise UserError(f"superposition needs names of one token, but {longer[0]!r} has more: "
                            "take a run with --tokenizer word, and names that it learned from")
        all_cosines = table[[some[0] for some in ids]] @ thoughts.T  # (nodes, k)
        found.append(dict(zip(concepts, all_cosines.tolist())))
    return found


def superposition(probe):
    """Mean cosine of each thought with the embeddings of nodes: those that cannot be reached, those
    that can within the thought's number of hops, those at just that many (the frontier), and those
    on a shortest way at that distance. Needs names of one token. Source: arXiv 2505.12514."""
    graphs, found = [Graph(e) for e in probe.examples], cosines(probe)
    rows = []
    for k in range(probe.k):
        distance = k if probe.names else k + 1  # the first of the names is that of the root
        groups = {"not reachable": [], "reachable": [], "frontier": [], "optimal": []}
        for graph, of_nodes in zip(graphs, found):
            reached, way = graph.below(graph.root), shortest_ways(graph)
            for node, values in of_nodes.items():
                hops = reached.get(node)
                for name, member in {"not reachable": hops is None,
                                     "reachable": hops is not None and hops <= distance,
                                     "frontier": hops == distance,
                                     "optimal": hops == distance and node in way}.items():
                    groups[name] += [values[k]] * member
        rows.append({"thought": k + 1, **{
            name: {"mean": mean(some), "nodes": len(some)} if some else None
            for name, some in groups.items()}})
    return {"n": len(probe.examples), "rows": rows}
