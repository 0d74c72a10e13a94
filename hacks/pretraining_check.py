"""Pre-training with thoughts: what a text looks like."""
import random

from curriculum import NO_LOSS, Curriculum, Markers, plain_text
from data import facts_of, word_encoding
from tasks.record import Example


def test_thoughts_change_the_text_or_what_comes_before_them_is_learned():
    c, markers = Curriculum(max_latent_stage=3, eot=False), Markers(91, 92, 93, 94)
    text, counts = list(range(10)), set()
    for seed in range(50):
        ids, targets = plain_text(text, c, markers, random.Random(seed))
        cut, k = ids.index(91), ids.count(93)
        assert ids == text[:cut] + [91] + [93] * k + text[cut:]
        assert targets == [NO_LOSS] * (cut + 1 + k) + text[cut:] and cut < 10
        counts.add(k)
    assert counts == {0, 1, 2, 3}


def test_the_facts_hold_the_question_too():
    enc = word_encoding([""])
    example = Example("Tom is a lempus. Every lempus is red. Is Tom red or blue?", [], "")
    assert enc.decode(facts_of(example, enc)) == "Tom is a lempus. Every lempus is red.\n"
