"""The curriculum against the pictures in its own docstring, and against the paper's schedule."""
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
EXAMPLE = SimpleNamespace(question=["Q"], steps=[["1"], ["2"], ["3"]], answer=["A"])


def curriculum_of(method, **settings):
    return Curriculum(method, **{"max_latent_stage": 3, "icot_tokens": 1, "icot_all_beyond": 3,
                                 "epochs_stage_0": 1, "epochs_per_stage": 1} | settings)


def test_build_returns_the_picture_of_the_stages():
    picture = re.findall(r"    stage (\d)   (Q .*) \[(.*)\]\n", curriculum.__doc__)
    assert [int(stage) for stage, _, _ in picture] == [0, 1, 2, 3]
    for stage, given, learned in picture:
        ids, targets, start = build(EXAMPLE, int(stage), curriculum_of("coconut"), MARKERS)
        assert " ".join(ids) == f"{given} {learned}" and ids[:start] == ["Q", "<bot>"]
        assert targets == [NO_LOSS] * len(given.split()) + learned.split()


def test_build_returns_the_picture_of_the_methods():
    methods_part = curriculum.__doc__.split("At stage 2 of 3")[1]
    picture = dict(re.findall(r"    (\w+) +(Q .*)\n", methods_part))
    assert picture.keys() >= {*METHODS}  # a fork may have more
    for method, text in picture.items():
        c = curriculum_of(method)
        stage = 2 if last_stage(c) == 3 else last_stage(c)  # the others have one stage
        ids, targets, start = build(EXAMPLE, stage, c, MARKERS)
        assert " ".join(ids) == text, method
        assert ids[:start] == (["Q", "<bot>"] if "<bot>" in text else ["Q"]), method
        given = prompt(EXAMPLE.question, n_thoughts(stage, c), c, MARKERS)
        assert targets == [NO_LOSS] * len(given) + ids[len(given):], method


def test_build_returns_the_pictures_without_eot():
    for stage, text in ((0, "Q <bot> 1 2 3 A"), (1, "Q <bot> T 2 3 A"), (3, "Q <bot> T T T A")):
        assert stage == 3 or text in curriculum.__doc__
        ids, targets, _ = build(EXAMPLE, stage, curriculum_of("coconut", eot=False), MARKERS)
        assert " ".join(ids) == text
        assert targets == [NO_LOSS] * (2 + stage) + ids[2 + stage:]
    assert prompt(["Q"], 2, curriculum_of("no_thought", eot=False), MARKERS) == ["Q"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("c_thought", [1, 2])
def test_a_prompt_is_a_prefix_of_what_was_trained(method, c_thought):
    c = curriculum_of(method, c_thought=c_thought, extra_stage=True)
    for n_steps in range(6):
        example = SimpleNamespace(question=["Q"], steps=[["s"]] * n_steps, answer=["A"])
        for epoch in range(8):
            stage = stage_at(epoch, c)
            ids, targets, start = build(example, stage, c, MARKERS)
            given = prompt(example.question, n_thoughts(stage, c), c, MARKERS)
            assert ids[:len(given)] == given and set(targets[:len(given)]) <= {NO_LOSS}
            assert targets[len(given):] == ids[len(given):]
            assert ids.count("T") == (given.count("T") if c.fill == "thought" else 0)
            assert start <= len(given) and "T" not in ids[:start] and "P" not in ids[:start]


def test_the_schedule_is_the_papers():
    """ProsQA and ProntoQA: 5 epochs a stage. GSM8k: 6 epochs, 3 stages of 3, then the extra one."""
    prosqa = Curriculum(max_latent_stage=6, epochs_stage_0=5, epochs_per_stage=5)
    stages = [stage_at(epoch, prosqa) for epoch in range(50)]
    assert stages == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5 + [5] * 5 + [6] * 20
    assert [n_thoughts(stage, prosqa) for stage in range(7)] == [0, 1, 2, 3, 4, 5, 6]
    gsm8k = Curriculum(c_thought=2, max_latent_stage=3, extra_stage=True, epochs_stage_0=6,
                       epochs_per_stage=3)
    stages = [stage_at(epoch, gsm8k) for epoch in range(20)]
    assert stages == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 5
    assert [n_thoughts(stage, gsm8k) for stage in range(5)] == [0, 2, 4, 6, 6]
    assert stage_at(0, Curriculum(epochs_stage_0=0)) == 1, "a separate CoT run was stage 0"


@pytest.mark.parametrize("method", METHODS)
def test_a_stage_lasts_for_whole_epochs_except_with_icot(method):
    c = Curriculum(method, max_latent_stage=3, epochs_stage_0=2, epochs_per_stage=2)
    for epoch in range(12):
        of_batches = {stage_at(epoch + batch / 7, c) for batch in range(7)}
        assert len(of_batches) == 1 or method == "icot" and epoch >= 2


def test_the_extra_stage_alone_drops_the_steps_that_are_left():
    c = curriculum_of("coconut", c_thought=2, extra_stage=True)
    example = SimpleNamespace(question=["Q"], steps=[[str(i)] for i in range(1, 6)], answer=["A"])
    thoughts = "Q <bot> T T T T T T <eot> "
    assert " ".join(build(example, 3, c, MARKERS)[0]) == thoughts + "4 5 A"
    assert " ".join(build(example, last_stage(c), c, MARKERS)[0]) == thoughts + "A"


def test_a_chain_shorter_than_the_stage_has_all_thoughts_and_no_steps():
    """Footnote 1 of the paper: else short problems would be told apart by their thoughts."""
    short = SimpleNamespace(question=["Q"], steps=[["1"]], answer=["A"])
    ids, *_ = build(short, 3, curriculum_of("coconut"), MARKERS)
    assert ids == ["Q", "<bot>", "T", "T", "T", "<eot>", "A"]


def test_stage_mixing_draws_evenly_and_from_its_seed():
    c = curriculum_of("coconut", uniform_prob=0.4)

    def drawn(seed):
        rng = random.Random(seed)
        return [build(EXAMPLE, 3, c, MARKERS, rng)[0].count("T") for _ in range(4000)]

    assert drawn(1) == drawn(1) != drawn(2)
    shares = Counter(drawn(1))
    for k, expected in {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.6 + 0.1}.items():
        assert abs(shares[k] / 4000 - expected) < 0.03
    assert build(EXAMPLE, 3, c, MARKERS)[0].count("T") == 3, "nothing is drawn in evaluation"


def test_icot_removes_the_tokens_that_deng_et_al_remove():
    """Beside the counters of their train.py, in epochs of 16 batches: a token every two batches."""
    c = Curriculum("icot", epochs_stage_0=2, icot_tokens=8, icot_all_beyond=39)
    steps = [list(range(30)), list(range(30, 60))]
    example = SimpleNamespace(question=["Q"], steps=steps, answer=["A"])
    ours, theirs, scheduled_to_remove, remove_step_counter = [], [], 0, 0
    for epoch in range(9):
        for batch in range(16):
            stage = stage_at(epoch + batch / 16, c)
            ours.append(len(build(example, stage, c, MARKERS)[0]) - 2)
            if remove_step_counter == 16 / 8:
                scheduled_to_remove, remove_step_counter = scheduled_to_remove + 1, 0
            if epoch >= 2:
                remove_step_counter += 1
            theirs.append(60 - scheduled_to_remove if scheduled_to_remove < 39 else 0)
    assert ours == theirs and {*ours} == {0, *range(22, 61)}
    assert build(example, 8, c, MARKERS)[0] == ["Q", *range(8, 60), "A"]
    rng = random.Random(0)
    offsets = Counter(52 + 2 - len(build(example, 8, c, MARKERS, rng)[0]) for _ in range(20000))
    assert abs(offsets[0] / 20000 - (1 - 2.718281828 ** -4)) < 0.004  # 98 %, as Deng et al. say
    assert 0.008 < offsets[1] / 20000 < 0.028 and min(offsets) == 0


def test_icot_removes_a_token_in_time_where_a_share_of_an_epoch_is_no_binary_fraction():
    c = Curriculum("icot", epochs_stage_0=1, icot_tokens=3, icot_all_beyond=100)
    for n in (3, 7, 49, 300):  # batches in an epoch
        for epoch in (1, 2, 9):
            for batch in range(n):
                assert stage_at(epoch + batch / n, c) == ((epoch - 1) * n + batch) * 3 // n


def test_a_pause_differs_from_a_thought_in_its_id_alone():
    for with_thoughts, with_pauses in (("coconut", "pause_as_thought"), ("no_curriculum", "pause")):
        for epoch in range(5):
            built = [build(EXAMPLE, stage_at(epoch, c), c, MARKERS)
                     for c in (curriculum_of(with_thoughts), curriculum_of(with_pauses))]
            assert [token.replace("T", "P") for token in built[0][0]] == built[1][0]
            assert built[0][1:] == built[1][1:]
