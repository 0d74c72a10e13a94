"""
What training, sampling and analysis share: the loss, and accuracy by generation.
"""
import time

import torch
import torch.nn.functional as F

from curriculum import METHODS, NO_LOSS, build, n_thoughts, prompt
from data import collate, encode, encode_question, is_correct, markers_of
from model import generate, think
from parallel import share, total


def batch_loss(model, sequences, thought_id):
    """The loss of [(ids, targets), ..] in nats, summed over the supervised tokens."""
    ids, targets, thought, real = collate(sequences, thought_id, model.wte.weight.device)
    return supervised_loss(model, think(model, ids, thought, real), targets)


def supervised_loss(model, hidden, targets):
    """hidden (B, T, C), targets (B, T) -> nats, summed over the supervised tokens."""
    hidden, targets = hidden[:, :-1], targets[:, 1:]  # the state at column t predicts token t + 1
    learned = targets != NO_LOSS
    logits = model.lm_head(hidden[learned])  # (supervised tokens, V): no others are ever computed
    return F.cross_entropy(logits, targets[learned], reduction="sum")


def count_learned(sequences):
    """The number of supervised tokens in [(ids, targets), ..]."""
    return sum(target != NO_LOSS for _, targets in sequences for target in targets)


def collate_prompts(model, prompts, enc):
    """ids, thought, real (B, T), as for `think`, of prompts (lists of ids)."""
    sequences = [(ids, ids) for ids in prompts]  # nothing is learned: any targets will do
    ids, _, thought, real = collate(sequences, markers_of(enc).thought, model.wte.weight.device)
    return ids, thought, real


def answers(model, prompts, enc, max_new_tokens, edit=None):
    """What the model writes after each prompt (a list of ids): texts, and lengths in tokens."""
    end_id = enc.eot_token  # tiktoken's name for the end of text; Markers.eot ends the thoughts
    rows = generate(model, *collate_prompts(model, prompts, enc), max_new_tokens, end_id, edit)
    return [enc.decode(row) for row in rows], [len(row) for row in rows]


def prompts_of(examples, k, c, enc):
    """What the model is given of each Example of text, with k thoughts: lists of ids."""
    return [prompt(encode_question(example.question, enc), k, c, markers_of(enc))
            for example in examples]


@torch.no_grad()
def written_answers(model, prompts, enc, batch_size, max_new_tokens, edit_of=None):
    """What the model writes after each prompt, greedily: [(text, length in tokens), ..].

    edit_of: from the indices of the prompts in a batch to an `edit` of their thoughts, see think.
    """
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
    written = {}
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        edit = edit_of(rows) if edit_of else None
        texts, lengths = answers(model, [prompts[i] for i in rows], enc, max_new_tokens, edit)
        written |= zip(rows, zip(texts, lengths))
    return [written[i] for i in range(len(prompts))]


@torch.no_grad()
def evaluate(model, examples, stage, c, enc, batch_size, max_new_tokens):
    """{loss, accuracy, tokens, seconds, n} of Examples of text at a stage of Curriculum c.

    loss: nats a supervised token. tokens: written ones and thoughts a problem, counted as in the
    paper's Table 1, without markers, pauses and end token. seconds: of writing, a problem. Official
    run.py:440-480, there one problem at a time.
    """
    model.eval()
    n, marks = len(examples), markers_of(enc)
    examples = share(sorted(examples, key=lambda example: len(example.question)))
    nats = learned = 0
    for i in range(0, len(examples), batch_size):
        sequences = [build(encode(e, enc), stage, c, marks) for e in examples[i:i + batch_size]]
        nats += batch_loss(model, sequences, marks.thought).item()
        learned += count_learned(sequences)

    began = time.perf_counter()
    prompts = prompts_of(examples, n_thoughts(stage, c), c, enc)
    written = written_answers(model, prompts, enc, batch_size, max_new_tokens)
    seconds = time.perf_counter() - began
    correct = sum(is_correct(text, e.answer) for (text, _), e in zip(written, examples))
    tokens = sum(length for _, length in written)
    if METHODS[c.method].fill == "thought":
        tokens += n_thoughts(stage, c) * len(examples)
    nats, learned, correct, tokens, seconds = total([nats, learned, correct, tokens, seconds],
                                                    model.wte.weight.device)
    return {"loss": nats / learned, "accuracy": correct / n, "tokens": tokens / n,
            "seconds": seconds / n, "n": n}
