"""A thought for each token: what the sequences look like."""
import random

from curriculum import Curriculum, Markers, build, last_stage
from tasks.record import Example


def test_each_token_that_goes_leaves_a_thought():
    c = Curriculum(method="coconut_by_token", eot=False, icot_all_beyond=5, max_latent_stage=2)
    markers, example = Markers(91, 92, 93, 94), Example([1, 2], [[11, 12], [13], [14]], [21, 22])
    rows = [build(example, stage, c, markers, random.Random(0))[0] for stage in range(6)]
    assert rows[0] == [1, 2, 91, 11, 12, 13, 14, 21, 22]
    assert rows[1] == [1, 2, 91, 93, 12, 13, 14, 21, 22]
    assert rows[3] == [1, 2, 91, 93, 93, 93, 14, 21, 22]
    assert rows[last_stage(c)] == [1, 2, 91, 93, 93, 93, 93, 93, 21, 22]
