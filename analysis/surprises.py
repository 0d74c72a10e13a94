"""What thoughts can bear: the measurements behind docs/surprises.md."""
import copy
from collections import Counter
from statistics import fmean as mean

import torch
import torch.nn.functional as F

from analysis.thoughts import put_in, share_of
from data import markers_of
from model import GPT
from tasks.record import UserError


def surprises(probe, seed=0):
    """Change thoughts, their number, or the weights of a trained model, and count right answers.

    A change acts on each thought as it is made, so later thoughts follow from what it leaves; only
    an exchange of thoughts puts in those that the model had by itself. noisy: eight times noise of
    0.3 of a thought's norm; the answers agree if all eight are the same text."""
    n, k, model = len(probe.examples), probe.k, probe.model
    if not isinstance(model, GPT):
        raise UserError("surprises takes positions off as GPT-2 adds them: no other model")
    thoughts, generator = probe.thoughts(k), torch.Generator().manual_seed(seed)  # (n, k, C)
    mean_thought = thoughts.mean(dim=(0, 1))
    centred = (thoughts - mean_thought).flatten(0, 1)  # (n * k, C)
    values, axes = torch.linalg.svd(centred, full_matrices=False)[1:]  # axes: (C, C), a row each
    variance = values.square() / values.square().sum()
    place, marker = probe.prompts(k), markers_of(probe.enc).thought
    place = torch.tensor([ids.index(marker) for ids in place], device=thoughts.device)

    def noise(share):
        def change(i, thought):
            random = torch.randn(thought.shape, generator=generator).to(thought.device)
            return thought + share * thought.norm(dim=-1, keepdim=True) * F.normalize(random, dim=1)
        return lambda rows: change

    def scaled(factor):
        return lambda rows: lambda i, thought: factor * thought

    def without(missing):
        return lambda rows: lambda i, thought: thought * (i != missing)

    def rounded(bits):
        return lambda rows: lambda i, thought: round_to(thought, bits)

    def projected(m):
        kept = axes[:m].T @ axes[:m]
        return lambda rows: lambda i, thought: mean_thought + (thought - mean_thought) @ kept

    def no_position(rows):
        return lambda i, thought: thought - model.wpe(place[rows] + i)

    def soft(rows):
        return lambda i, thought: model.lm_head(thought).softmax(dim=-1) @ model.wte.weight

    last_two = [*range(k - 2), k - 1, k - 2] if k > 1 else [0]
    trials = {"nothing": None}
    trials |= {f"noise of {share} of the norm": noise(share) for share in (0.1, 0.3, 1, 2)}
    trials |= {f"{factor} times as long": scaled(factor) for factor in (0.5, 2)}
    trials |= {f"thought {i + 1} zero": without(i) for i in range(k)}
    trials |= {"the last two exchanged": put_in(thoughts[:, last_two]),
               "in reverse order": put_in(thoughts.flip(1))}
    trials |= {f"rounded to {bits} bits": rounded(bits) for bits in (8, 4, 3, 2)}
    trials |= {"signs alone": rounded(1)}
    trials |= {f"projected on {m} axes": projected(m) for m in (1, 2, 4, 8, 16, 32, 64)}
    trials |= {"without position": no_position, "soft thinking": soft}
    rows = [{"change": name} | share_of(probe.right(probe.written(k, change)))
            for name, change in trials.items()]
    rows += [{"change": f"{j} thoughts"} | share_of(probe.right(probe.written(j)))
             for j in range(3 * k + 1)]
    for bits in (8, 6, 5, 4):
        probe.model = copy.deepcopy(model)
        for p in probe.model.parameters():
            p.data = round_to(p.data, bits)
        rows.append({"change": f"weights of {bits} bits"} | share_of(probe.right(probe.written(k))))
    probe.model = model
    texts = [*zip(*([text for text, _ in probe.written(k, noise(0.3))] for _ in range(8)))]
    agree = [len({*some}) == 1 for some in texts]
    right = probe.right([(Counter(some).most_common(1)[0][0], 0) for some in texts])

    def right_where(wanted):
        some = [ok for ok, same in zip(right, agree) if same == wanted]
        return mean(some) if some else None

    return {"n": n, "rows": rows,
            "axes": {f"values for {share:.0%} of the variance":
                     int((variance.cumsum(0) < share).sum()) + 1 for share in (0.9, 0.99)},
            "noisy": {"all eight agree": mean(agree), "the most frequent is right": mean(right),
                      "where all agree": right_where(True), "where not": right_where(False)}}


def round_to(x, bits):
    """x (.., C) with each row rounded to so many bits, by the row's largest value; one bit: the
    signs, as long as before."""
    if bits == 1:
        return x.sign() * x.abs().mean(dim=-1, keepdim=True)
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9) / (2 ** (bits - 1) - 1)
    return (x / scale).round() * scale
