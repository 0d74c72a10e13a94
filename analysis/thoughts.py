"""
Look into the thoughts of a trained model: the paper's section 4, and the controls that it lacks.

A measure is a function from a Probe to a dict that JSON can hold and __main__.py prints, with lists
of dicts as tables. To measure something else, write another one.
"""
import os
import random
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean as mean

import torch
import torch.nn.functional as F

from analysis.runs import in_folder, interval
from curriculum import n_thoughts
from data import lines_of, markers_of
from harness.settings import Settings
from harness.start import load_run, pick_device, problems_that_fit
from model import GPT, think
from sample import answers, collate_prompts, nearest_tokens, prompts_of, thoughts_after
from tasks.common import points, shortcut_accuracy
from tasks.prosqa import CATEGORIES, category, read_question
from tasks.record import UserError, is_correct, write_whole


@dataclass
class Probe:
    """A trained model, and the problems to look at it with."""
    model: GPT
    enc: object  # tiktoken.Encoding
    examples: list  # Examples of text
    s: Settings  # of its training
    stage: int  # that the training has reached
    batch_size: int = 64

    @property
    def k(self):
        """The thoughts that the model was trained with at last."""
        return n_thoughts(self.stage, self.s.curriculum())

    def prompts(self, k):
        return prompts_of(self.examples, k, self.s.curriculum(), self.enc)

    def written(self, k, on_thought_of=None):
        """[(text, length), ..]: what it writes after k thoughts, see sample.answers."""
        return answers(self.model, self.prompts(k), self.enc, self.batch_size,
                       self.s.max_new_tokens, on_thought_of)

    def right(self, written):
        """Whether each answer is right. The mark before it, ###, may be missing: what was put in
        the place of the thoughts may stand for it."""
        return [is_correct(text if "#" in text else f"#{text}", e.answer)
                for (text, _), e in zip(written, self.examples)]

    def thoughts(self, k, or_pauses=False):
        """(examples, k, C): the k thoughts of every example; of a run with pauses, if asked for,
        the states before them, which would be the thoughts. UserError for a run without any."""
        prompts, fill = self.prompts(k), self.s.curriculum().fill
        if k == 0 or fill != "thought" and not (or_pauses and fill == "pause"):
            raise UserError(f"{self.s.method} at stage {self.stage} has no thoughts to look at")
        states = thoughts_after if fill == "thought" else states_before_pauses
        return torch.cat([states(self.model, prompts[i:i + self.batch_size], self.enc)
                          for i in range(0, len(prompts), self.batch_size)])


@torch.no_grad()
def states_before_pauses(model, prompts, enc):
    """(prompts, k, C): the states before the k pauses of each prompt: they would be thoughts."""
    model.eval()
    ids, is_thought, is_real = collate_prompts(model, prompts, enc)
    hidden, _ = think(model, ids, is_thought, is_real, start=1)
    before = (ids == markers_of(enc).pause).roll(-1, dims=1)  # (B, T)
    return hidden[before].view(len(prompts), -1, model.config.n_embd)


def load_probe(run, data=None, n=None, device="auto"):
    """The Probe of a run (its folder or checkpoint), with the first n problems that fit (0: all):
    of its own test split, or of a file, or of what load_splits takes."""
    ckpt, model, enc = load_run(in_folder(run, "ckpt.pt"), pick_device(device))
    s = Settings(**ckpt["settings"])
    examples = problems_that_fit(s, model, enc, data)[:n or None]
    return Probe(model, enc, examples, s, ckpt["run"]["stage"])


def slim(run, out="slim.pt"):
    """Write a run's checkpoint anew, in float16 and without the optimizer: about a fifth."""
    ckpt = load_run(in_folder(run, "ckpt.pt"))[0]
    ckpt["settings"] |= ckpt.pop("unknown")
    halves = {}  # a tensor with two names, as a tied lm_head, is stored once
    ckpt["model"] = {name: halves.setdefault(tensor.data_ptr(), tensor.half())
                     for name, tensor in ckpt["model"].items()}
    ckpt.pop("optimizer", None)  # a slim one has none
    write_whole(out, "wb", lambda file: torch.save(ckpt, file))
    print(f"wrote {os.path.getsize(out) / 1e6:.1f} MB to {out}")


def share_of(right):
    """Accuracy and its interval, of a list of whether each answer is right."""
    return {"accuracy": mean(right), "interval": interval(sum(right), len(right))}


def categories(probe, written):
    """The shares of ProsQA's CATEGORIES among answers; none for problems in other words."""
    try:
        count = Counter(category(e, text) for (text, _), e in zip(written, probe.examples))
    except UserError:
        return {}
    return {name: count[name] / len(written) for name in CATEGORIES}


def accuracy(probe):
    """Count the right answers at the stage that a run has reached, and what they depend on.

    They are split by kind of answer (ProsQA), by number of steps, and by whether each shortcut is
    right, silent or wrong: a model that does not use it is as good in all three."""
    written = probe.written(probe.k)
    right, lengths = probe.right(written), [len(example.steps) for example in probe.examples]

    def where(values, wanted):
        some = [ok for ok, value in zip(right, values) if value == wanted]
        return f"{mean(some):.1%} of {len(some)}" if some else "-"

    return {"n": len(right), "accuracy": mean(right), "kinds": categories(probe, written),
            "steps": {f"with {n} steps": where(lengths, n) for n in sorted({*lengths})},
            "shortcuts": [{"shortcut": name, "alone": mean(values), "where it is right":
                           where(values, 1), "silent": where(values, 0.5),
                           "wrong": where(values, 0)}
                          for name, values in points(probe.s.task, probe.examples).items()]}


def sweep(probe, most=None):
    """Answer with 0 to --most thoughts, by default as many as at the last stage (paper, Figure 3).

    Only a model trained with --uniform_prob has learned all of them to the end."""
    rows, counted = [], probe.s.curriculum().fill == "thought"  # pauses are no tokens
    for k in range(1 + (probe.k if most is None else most)):
        written = probe.written(k)
        rows.append({"thoughts": k, **share_of(probe.right(written)),
                     "tokens": k * counted + mean(length for _, length in written),
                     **categories(probe, written)})
    return {"n": len(probe.examples), "rows": rows}


def retry(probe, most=4, seed=0):
    """Let a run answer ProsQA again, up to --most times, where it names neither option.

    Tokens are then drawn by chance. neither: the share that still names neither; with a coin: the
    accuracy if one is tossed for these; tokens: of all tries."""
    options = [read_question(example.question)[-1] for example in probe.examples]
    n, tokens, rows, written = len(options), 0, [], [("", 0)] * len(options)
    thoughts = probe.k * (probe.s.curriculum().fill == "thought")  # pauses are not counted

    def undecided():
        last_words = [text.split(" ")[-1].rstrip(".") for text, _ in written]
        return [i for i in range(n) if last_words[i] not in options[i]]

    for tries in range(most + 1):
        left = undecided()
        some = replace(probe, examples=[probe.examples[i] for i in left])
        noise = gumbel(seed + tries) if tries else lambda *_: None  # which leaves logits alone
        with probe.model.lm_head.register_forward_hook(noise):
            for i, (text, length) in zip(left, some.written(probe.k)):
                written[i] = text, length
                tokens += length + thoughts
        right, neither = probe.right(written), len(undecided()) / n
        rows.append({"retries": tries, **share_of(right), "neither": neither,
                     "with a coin": mean(right) + neither / 2, "tokens": tokens / n})
    return {"n": n, "rows": rows}


def gumbel(seed):
    """A hook that adds noise to logits, so that the largest is each token's as often as the model
    finds it probable."""
    generator = torch.Generator().manual_seed(seed)

    def with_noise(_, __, logits):
        waits = torch.empty(logits.shape).exponential_(generator=generator)
        return logits - waits.log().to(logits.device)
    return with_noise


def intervene(probe, seed=0):
    """Replace the thoughts by something else, and count the right answers.

    If they stay as many, nothing that was taken away was needed. Frozen from thought i on: those
    that follow are copies of it. A token's embedding is put in as each thought is made, so later
    thoughts follow from it; all else replaces thoughts that the model had by itself."""
    thoughts, n = probe.thoughts(probe.k), len(probe.examples)  # (n, k, C)
    if n < 2:
        raise UserError("two problems or more are needed to exchange thoughts")
    noise = torch.randn(thoughts.shape, generator=torch.Generator().manual_seed(seed))
    noise = thoughts.norm(dim=-1, keepdim=True) * F.normalize(noise.to(thoughts.device), dim=-1)
    order, swapped = random.Random(seed).sample(range(n), n), torch.empty_like(thoughts)
    swapped[order] = thoughts[order[1:] + order[:1]]  # no problem keeps its own
    mark, = probe.enc.encode_ordinary("### ")[:1]  # which precedes the answer
    trials = {"intact": put_in(thoughts), "zero": put_in(torch.zeros_like(thoughts)),
              "noise of the same norm": put_in(noise),
              "mean over the problems": put_in(thoughts.mean(dim=0).expand_as(thoughts)),
              "of another problem": put_in(swapped),
              "embedding of the nearest token": word_in(probe.model),
              "the same, unless that is ###": word_in(probe.model, mark),
              "likewise, of another problem": word_in(probe.model, mark, others=True)}
    for i in range(1, probe.k):
        copies = thoughts[:, i - 1:i].expand_as(thoughts[:, i:])
        trials[f"frozen from thought {i} on"] = put_in(torch.cat([thoughts[:, :i], copies], dim=1))
    rows = [{"thoughts": name} | share_of(probe.right(probe.written(probe.k, change)))
            for name, change in trials.items()]
    return {"n": n, "rows": rows, "shortcuts": shortcut_accuracy(probe.s.task, probe.examples)}


def word_in(model, spared=-1, others=False):
    """An `on_thought_of` that replaces each thought, unless the LM head finds the spared token
    nearest to it, by the embedding of that nearest token, or of that of another row's thought."""
    def change(k, thought):
        nearest = model.lm_head(thought).argmax(dim=-1)  # (B,)
        words = model.embed(nearest.roll(1) if others else nearest)
        return torch.where((nearest == spared)[:, None], thought, words)
    return lambda rows: change


def put_in(values):
    """An `on_thought_of` that replaces the thoughts of all problems by values (examples, k, C)."""
    return lambda rows: lambda k, thought: values[rows, k]


def decode(probe, show=3, top=5):
    """Show what tokens the thoughts are nearest to by the LM head, and of which steps they are.

    Of --show problems: each thought's nearest tokens with their probabilities, its norm, and its
    cosine with the thought before. Of all: how often its nearest token is the first of step 1, 2,
    .. (of an equation's result) or of the answer, were they written. A control: of a run with
    pauses it reads the states before them."""
    thoughts, shown, rows = probe.thoughts(probe.k, or_pauses=True), [], []  # (examples, k, C)
    for problem, some in enumerate(thoughts[:show]):
        cosines = [None, *F.cosine_similarity(some[1:], some[:-1]).tolist()]
        for i, (thought, cosine) in enumerate(zip(some, cosines), start=1):
            near = [f"{token!r} {p:.2f}" for token, p in
                    nearest_tokens(probe.model, thought, probe.enc, top)]
            shown.append({"problem": problem, "thought": i, "norm": thought.norm().item(),
                          "cosine": cosine, "nearest tokens": "  ".join(near)})
    firsts = [first_tokens(example, probe.enc) for example in probe.examples]
    for i, ids in enumerate(probe.model.lm_head(thoughts).argmax(dim=-1).T.tolist(), start=1):
        rows.append({"thought": i} | {
            part: mean(token == first.get(part) for token, first in zip(ids, firsts))
            for part in max(firsts, key=len)})  # "step 1", .. of the longest problem, and "answer"
    return {"n": len(firsts), "shown": shown, "rows": rows}


def first_tokens(example, enc):
    """{"step 1": its first token, or its result's, .., "answer": the answer's}."""
    parts = {f"step {i}": line.split("=")[-1]
             for i, line in enumerate(lines_of(example.steps), start=1)} | {"answer": "### "}
    return {name: enc.encode_ordinary(text)[0] for name, text in parts.items()}
