"""The curriculum against the pictures in its own docstring, and against the paper's schedule."""
import math
import random
import re
from collections import Counter
from types import SimpleNamespace

import pytest

import curriculum
from curriculum import (NO_LOSS, Curriculum, Markers, build, last_stage, n_thoughts, prompt,
                        stage_at)

MARKERS = Markers(bot="<bot>", eot="<eot>", thought="T", pause="P")
METHODS = ["coconut", "pause_as_thought", "no_thought", "no_curriculum", "pause", "no_cot", "cot",
           "icot"]


def example_of(*steps):
    return SimpleNamespace(question=["Q"], steps=[[step] for step in steps], answer=["A"])


EXAMPLE = example_of("1", "2", "3")


def curriculum_of(method="coconut", **settings):
    return Curriculum(method, **{"max_latent_stage": 3, "icot_tokens": 1, "icot_all_beyond": 3,
                                 "epochs_stage_0": 1, "epochs_per_stage": 1} | settings)


@pytest.mark.parametrize("eot", [True, False])
def test_the_sequences_of_coconut_are_the_papers_at_every_stage(eot):
    picture = re.findall(r"    stage (\d)   (Q .*) \[(.*)\]\n", curriculum.__doc__)
    assert [int(stage) for stage, _, _ in picture] == [0, 1, 2, 3]
    for stage, given, learned in picture:
        given = given if eot else given.replace(" <eot>", "")
        ids, targets, start = build(EXAMPLE, int(stage), curriculum_of(eot=eot), MARKERS)
        assert " ".join(ids) == f"{given} {learned}" and ids[:start] == ["Q", "<bot>"]
        assert targets == [NO_LOSS] * len(given.split()) + learned.split()


def test_the_sequences_of_every_method_are_those_of_the_picture():
    picture = dict(re.findall(r"    (\w+) +(Q .*)\n", curriculum.__doc__.split("stage 2 of 3")[1]))
    assert picture.keys() >= {*METHODS}  # a fork may have more
    for method, text in picture.items():
        c = curriculum_of(method)
        stage = 2 if last_stage(c) == 3 else last_stage(c)  # the others have one stage
        ids, _, start = build(EXAMPLE, stage, c, MARKERS)
        assert " ".join(ids) == text, method
        assert ids[:start] == (["Q", "<bot>"] if "<bot>" in text else ["Q"]), method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"c_thought": 2}, {"extra_stage": True}, {"eot": False}])
def test_a_prompt_is_a_prefix_of_what_was_trained(method, settings):
    c = curriculum_of(method, **settings)
    for n_steps in range(6):
        for stage in range(last_stage(c) + 1):
            ids, targets, _ = build(example_of(*["s"] * n_steps), stage, c, MARKERS)
            given = prompt(["Q"], n_thoughts(stage, c), c, MARKERS)
            assert ids[:len(given)] == given and not {"T", "P"} & {*ids[len(given):]}
            assert targets == [NO_LOSS] * len(given) + ids[len(given):]


def test_the_schedule_is_the_papers():
    """ProsQA and ProntoQA: 5 epochs a stage. GSM8k: 6 epochs, 3 stages of 3, then the extra one."""
    prosqa = Curriculum(max_latent_stage=6, epochs_stage_0=5, epochs_per_stage=5)
    gsm8k = Curriculum(c_thought=2, max_latent_stage=3, extra_stage=True, epochs_stage_0=6,
                       epochs_per_stage=3)
    for amid in (0, 0.5, 0.99):  # a stage lasts for whole epochs
        stages = [stage_at(epoch + amid, prosqa) for epoch in range(50)]
        assert stages == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5 + [5] * 5 + [6] * 20
        stages = [stage_at(epoch + amid, gsm8k) for epoch in range(20)]
        assert stages == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 5
    assert [n_thoughts(stage, prosqa) for stage in range(7)] == [0, 1, 2, 3, 4, 5, 6]
    assert [n_thoughts(stage, gsm8k) for stage in range(5)] == [0, 2, 4, 6, 6]
    assert stage_at(0, Curriculum(epochs_stage_0=0)) == 1, "a separate CoT run was stage 0"


@pytest.mark.parametrize("steps, stage, left", [("1", 3, ""), ("12345", 3, "4 5 "),
                                                ("12345", 4, "")])
def test_a_chain_has_the_thoughts_of_its_stage_however_long_it_is(steps, stage, left):
    """Footnote 1 of the paper: else short problems would be told apart by their thoughts. Stage 4
    is the extra one."""
    ids, *_ = build(example_of(*steps), stage, curriculum_of(extra_stage=True), MARKERS)
    assert " ".join(ids) == f"Q <bot> T T T <eot> {left}A"


def test_stage_mixing_draws_evenly_and_from_its_seed():
    c = curriculum_of(uniform_prob=0.4)

    def drawn(seed):
        rng = random.Random(seed)
        return Counter(build(EXAMPLE, 3, c, MARKERS, rng)[0].count("T") for _ in range(4000))

    assert drawn(1) == drawn(1) != drawn(2)
    for k, expected in {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.6 + 0.1}.items():
        assert drawn(1)[k] / 4000 == pytest.approx(expected, abs=0.03)


def test_icot_removes_the_tokens_that_deng_et_al_remove():
    """Beside the counters of their train.py, in epochs of 16 batches: a token every two batches."""
    c = Curriculum("icot", epochs_stage_0=2, icot_tokens=8, icot_all_beyond=39)
    example = SimpleNamespace(question=["Q"], steps=[range(30), range(30, 60)], answer=["A"])
    ours, theirs, scheduled_to_remove, remove_step_counter = [], [], 0, 0
    for step in range(9 * 16):
        ours.append(len(build(example, stage_at(step / 16, c), c, MARKERS)[0]) - 2)
        if remove_step_counter == 16 / 8:
            scheduled_to_remove, remove_step_counter = scheduled_to_remove + 1, 0
        if step >= 2 * 16:
            remove_step_counter += 1
        theirs.append(60 - scheduled_to_remove if scheduled_to_remove < 39 else 0)
    assert ours == theirs and {*ours} == {0, *range(22, 61)}
    assert build(example, 8, c, MARKERS)[0] == ["Q", *range(8, 60), "A"]
    rng = random.Random(0)  # in training a few more go, with a chance ~ exp(-4 o)
    offsets = Counter(54 - len(build(example, 8, c, MARKERS, rng)[0]) for _ in range(20000))
    for o in range(3):
        expected = math.exp(-4 * o) * (1 - math.exp(-4))
        assert offsets[o] / 20000 == pytest.approx(expected, abs=0.004)
    assert min(offsets) == 0


@pytest.mark.parametrize("n", [3, 7, 49, 300])  # batches in an epoch
def test_icot_removes_a_token_in_time_where_a_share_of_an_epoch_is_no_binary_fraction(n):
    c = Curriculum("icot", epochs_stage_0=1, icot_tokens=3, icot_all_beyond=100)
    for epoch in (1, 2, 9):
        stages = [stage_at(epoch + batch / n, c) for batch in range(n)]
        assert stages == [((epoch - 1) * n + batch) * 3 // n for batch in range(n)]
