"""The model stops itself: how many thoughts a problem gets."""
import random

import torch

from conftest import tiny_gpt
from curriculum import Curriculum, build
from data import encode, markers_of, word_encoding
from sample import prompts_of, shortened, thoughts_after
from tasks.record import Example

EXAMPLES = [Example("Every a is b. Is c d?", ["x"] * n, "c is d.") for n in (1, 3)]


def test_training_gives_a_problem_no_more_thoughts_than_it_has_steps():
    enc = word_encoding(["Every a is b. Is c d? x ### c is d."])
    marks, c = markers_of(enc), Curriculum(eot=False, own_stop=True)
    for example, k in zip(EXAMPLES, (1, 2)):
        ids, targets, _ = build(encode(example, enc), 2, c, marks, random.Random(0))
        named = [target for token, target in zip(ids, targets) if token == marks.thought]
        assert named == enc.encode_ordinary(" x") * k


def test_the_first_thought_that_reads_as_the_mark_is_left_out_and_so_are_all_after_it():
    enc = word_encoding(["Every a is b. Is c d? x ### c is d."])
    model, c = tiny_gpt(vocab_size=enc.n_vocab), Curriculum(eot=False, own_stop=True)
    prompts = prompts_of(EXAMPLES, 4, c, enc)
    third = thoughts_after(model, prompts[:1], enc)[0, 2]
    mark, = enc.encode_ordinary("### ")
    with torch.no_grad():  # the head is tied, so only a bias of its own can prefer a token
        scores = model.lm_head(third)
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(enc.n_vocab))
        model.lm_head.bias[mark] = scores.max() - scores[mark] + 1e-3
    k = [shortened(model, ids, 4, c, enc).count(markers_of(enc).thought) for ids in prompts]
    is_mark = (model.lm_head(thoughts_after(model, prompts, enc)).argmax(-1) == mark).int()
    assert k == [int(row.argmax()) if row.any() else 4 for row in is_mark] and 0 < k[0] <= 2
