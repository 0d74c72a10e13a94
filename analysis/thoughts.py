"""
Look into the thoughts of a trained model: the paper's section 4, and the controls that it lacks.

Each measure is a function from a Probe (a model with its problems) to a dict that JSON can hold,
which __main__.py prints and draws. To measure something else, write another such function.
"""
import math
import random
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import fmean as mean

import torch
import torch.nn.functional as F

from analysis.runs import checkpoint_of
from curriculum import Curriculum, n_thoughts
from data import line_of
from harness.settings import Settings
from harness.start import load_run, pick_device, problems_that_fit
from model import GPT
from sample import answers, nearest_tokens, prompts_of, thoughts_after
from tasks.common import shortcut_accuracy
from tasks.prosqa import CATEGORIES, category, read_question
from tasks.record import UserError, is_correct


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

    def written(self, k, on_thought_of=None):
        """What it writes after k thoughts, see sample.answers."""
        return answers(self.model, self.prompts(k), self.enc, self.batch_size,
                       self.max_new_tokens, on_thought_of)

    def right(self, written):
        """Whether each answer is right."""
        return [is_correct(text, e.answer) for (text, _), e in zip(written, self.examples)]

    def thoughts(self, k):
        """(examples, k, C): the k thoughts of every example. UserError for a run without any."""
        if k == 0:
            raise UserError("this run is at stage 0, which has no thoughts to look at")
        prompts = self.prompts(k)
        return torch.cat([thoughts_after(self.model, prompts[i:i + self.batch_size], self.enc)
                          for i in range(0, len(prompts), self.batch_size)])


def load_probe(run, data=None, n=None, device="auto"):
    """The Probe of a run, with the first n problems that fit (0: all): of its own test split, or of
    a file, or of what load_splits takes."""
    ckpt, model, enc = load_run(checkpoint_of(run), pick_device(device))
    s = Settings(**ckpt["settings"])
    examples = problems_that_fit(s, model, enc, data)[:n or None]
    return Probe(model, enc, examples, s.task, s.curriculum(), ckpt["run"]["stage"],
                 s.max_new_tokens, names=s.steps == "names")


def accuracy_of(right):
    """Its share and interval, of a list of whether each answer is right."""
    return {"accuracy": mean(right), "interval": interval(sum(right), len(right))}


def interval(right, n):
    """The 95 % confidence interval of a share, by Wilson's formula."""
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return max(0.0, low), min(1.0, high)  # rounding may lead outside


def sweep(probe, most):
    """Accuracy and tokens after 0 .. most thoughts, and for ProsQA the shares of CATEGORIES, as in
    the paper's Figure 3. Only a model trained with --uniform_prob has seen them all."""
    rows = []
    for k in range(most + 1):
        written = probe.written(k)
        row = {"thoughts": k, **accuracy_of(probe.right(written)),
               "tokens": k + mean(length for _, length in written)}
        rows.append(row | categories(probe, written))
    return {"n": len(probe.examples), "rows": rows}


def categories(probe, written):
    """The shares of CATEGORIES among written answers; none for problems that are not ProsQA's."""
    if probe.task != "prosqa":
        return {}
    try:
        count = Counter(category(e, text) for (text, _), e in zip(written, probe.examples))
    except UserError:  # somebody's own problems, in other words
        return {}
    return {name: count[name] / len(written) for name in CATEGORIES}


def retry(probe, most, seed=0):
    """Accuracy on ProsQA if an answer that names neither option is written again, 0 .. most times:
    at first greedily, then by_chance. neither: the share that still names neither; with a coin: the
    accuracy if one is tossed for these; tokens: of all tries."""
    def names_none(i):
        *_, options = read_question(probe.examples[i].question)
        return written[i][0].split(" ")[-1].rstrip(".") not in options

    n, tokens, rows = len(probe.examples), 0, []
    thoughts = probe.k * (probe.c.fill == "thought")  # pauses are not counted
    written = [("", 0)] * n  # (text, tokens) of each problem's last try
    for tries in range(most + 1):
        left = [i for i in range(n) if names_none(i)]
        if left:
            again = replace(probe, examples=[probe.examples[i] for i in left])
            with by_chance(probe.model, seed + tries) if tries else nullcontext():
                for i, answer in zip(left, again.written(probe.k)):
                    written[i] = answer
                    tokens += answer[1] + thoughts
        right = probe.right(written)
        neither = mean(map(names_none, range(n)))
        rows.append({"retries": tries, **accuracy_of(right), "neither": neither,
                     "with a coin": mean(right) + neither / 2, "tokens": tokens / n})
    return {"n": n, "rows": rows}


@contextmanager
def by_chance(model, seed):
    """Within it the model writes tokens as probable as it finds them, instead of the likeliest:
    the largest of logits with Gumbel noise is such a token."""
    generator = torch.Generator().manual_seed(seed)

    def with_noise(_, __, logits):
        waits = torch.empty(logits.shape).exponential_(generator=generator)
        return logits - waits.log().to(logits.device)

    handle = model.lm_head.register_forward_hook(with_noise)
    try:
        yield
    finally:
        handle.remove()


def intervene(probe, seed=0):
    """Accuracy with every thought replaced, beside the intact one and the rules that guess."""
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
    trials += [(name, put_in(values), meaning) for name, (values, meaning) in table.items()]
    trials += [(f"frozen from thought {i + 1} on", freeze(i),
                f"what follows thought {i + 1} adds nothing") for i in range(k - 1)]
    rows = []
    for name, on_thought_of, meaning in trials:
        rows.append({"thoughts": name, **accuracy_of(probe.right(probe.written(k, on_thought_of))),
                     "if as good as intact": meaning})
    return {"n": len(probe.examples), "rows": rows,
            "shortcuts": shortcut_accuracy(probe.task, probe.examples)}


def derangement(n, rng):
    """A random order of 0 .. n - 1 in which nothing stays where it was."""
    if n < 2:
        raise UserError("two problems or more are needed to exchange thoughts")
    order = rng.sample(range(n), n)
    other = {a: b for a, b in zip(order, order[1:] + order[:1])}
    return [other[i] for i in range(n)]


def put_in(values):
    """An `on_thought_of` that replaces the thoughts of all problems by values (examples, k, C)."""
    def on_thought_of(rows):
        return lambda k, _: values[rows, k]
    return on_thought_of


def freeze(last):
    """An `on_thought_of` by which every thought after number `last` is that one again."""
    def on_thought_of(rows):
        kept = None

        def on_thought(k, thought):
            nonlocal kept
            kept = thought if k <= last else kept
            return kept
        return on_thought
    return on_thought_of


def decode(probe, top=5):
    """For every problem and thought the tokens it is nearest to by the LM head, with their
    probabilities, its norm, and its cosine with the thought before.

    rows: for every thought the shares of problems in which its nearest token is the first of step
    1, 2, .. (of an equation's result) or of the answer, were they written."""
    found = []
    for example, thoughts in zip(probe.examples, probe.thoughts(probe.k)):
        near = [nearest_tokens(probe.model, thought, probe.enc, top) for thought in thoughts]
        norms = thoughts.norm(dim=-1).tolist()
        cosines = [None, *F.cosine_similarity(thoughts[1:], thoughts[:-1]).tolist()]
        told = [{"tokens": [token for token, _ in tokens],
                 "probabilities": [p for _, p in tokens], "norm": norm,
                 "cosine with the one before": cosine}
                for tokens, norm, cosine in zip(near, norms, cosines)]
        found.append({"question": example.question, "steps": example.steps,
                      "answer": example.answer, "thoughts": told})
    written = [first_tokens(example, probe.enc) for example in probe.examples]
    parts = max(written, key=len)  # "step 1", .. of the longest problem, and "answer"
    rows = []
    for i in range(probe.k):
        nearest = [problem["thoughts"][i]["tokens"][0] for problem in found]
        rows.append({"thought": i + 1} | {
            part: mean(token == firsts.get(part) for token, firsts in zip(nearest, written))
            for part in parts})
    return {"n": len(found), "rows": rows, "problems": found}


def first_tokens(example, enc):
    """{"step 1": text of its first token, or its result's, .., "answer": that of the answer's}."""
    parts = {f"step {i}": line_of(step).split("=")[-1]
             for i, step in enumerate(example.steps, start=1)} | {"answer": "### "}
    return {name: enc.decode(enc.encode_ordinary(text)[:1]) for name, text in parts.items()}
