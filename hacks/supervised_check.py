"""Supervised thoughts: which token each has to name."""
import pytest

from curriculum import NO_LOSS, Curriculum, build
from data import count_targets, encode, markers_of, name_steps, word_encoding
from tasks.record import Example

STEPS = {"names": ["Tom", "lempus", "is red"],
         "sentences": ["Tom is a Tom.", "Every Tom is a lempus.", "Tom is red."],
         "equations": ["<<1+1=Tom>>", "<<2*3=lempus>>", "<<3-1=red>>"]}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("c_thought", [1, 2])
def test_a_thought_has_to_name_its_own_step_without_a_full_stop(steps, c_thought):
    example = Example("Is Tom red?", steps, "yes")
    enc = word_encoding([example.question, " lempus", *steps])
    c, marks = Curriculum(max_latent_stage=4, c_thought=c_thought), markers_of(enc)
    for stage in range(5):
        row = build(encode(example, enc), stage, c, marks)
        n_targets = count_targets([row])
        name_steps(row, example, c, enc)
        ids, targets, _ = row
        named = [target for token, target in zip(ids, targets) if token == marks.thought]
        names = [name for name in ["Tom", "lempus", "red"][:stage] for _ in range(c_thought)]
        assert [enc.decode([token]).strip() for token in named if token != NO_LOSS] == names
        assert len(named) == stage * c_thought and count_targets([row]) == n_targets
