"""Pre-training with thoughts: what a text looks like."""
import random

from curriculum import NO_LOSS, Curriculum
from data import markers_of, plain_text, word_encoding
from tasks.record import Example


def test_thoughts_stand_amid_the_facts_and_what_follows_them_is_learned():
    c, enc, counts = Curriculum(max_latent_stage=3, eot=False), word_encoding([""]), set()
    example = Example("Tom is a lempus. Every lempus is red. Is Tom red or blue?", [], "")
    facts, marks = enc.encode_ordinary("Tom is a lempus. Every lempus is red.\n"), markers_of(enc)
    for seed in range(50):
        ids, targets, start = plain_text(example, c, enc, random.Random(seed))
        cut, k = ids.index(marks.bot), ids.count(marks.thought)
        assert ids == facts[:cut] + [marks.bot] + [marks.thought] * k + facts[cut:]
        assert targets == [NO_LOSS] * (cut + 1 + k) + facts[cut:] and cut < len(facts)
        assert start == cut + 1
        counts.add(k)
    assert counts == {0, 1, 2, 3}
