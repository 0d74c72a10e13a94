"""
What a sequence looks like at each stage: the curriculum that turns written steps into thoughts.

One example at every stage of `coconut` with c_thought = 1. Q is the question, 1 2 3 are the steps,
A is the answer, T is a thought; the loss is taken on the tokens in brackets.

    stage 0   Q <bot> <eot> [1 2 3 A]
    stage 1   Q <bot> T <eot> [2 3 A]
    stage 2   Q <bot> T T <eot> [3 A]
    stage 3   Q <bot> T T T <eot> [A]

Without <eot> (`eot` False) stage 0 reads Q <bot> 1 2 3 A, and stage 1 Q <bot> T 2 3 A. Its thought
T is the state at <bot>, which at stage 0 predicted the first token of step 1. So where a step is
one token, a new thought starts out as the state that would have written the step.

The model is never asked to say what a thought stands for: a thought is good if it helps to write
what is left. The eight methods of the paper's Table 1 differ in two choices: what takes the place
of steps that are gone, and when they go. At stage 2 of 3, or at their only stage, and with steps of
one token each, they read (P is a learned pause token; icot removes tokens, not whole steps):

    coconut            Q <bot> T T <eot> 3 A
    pause_as_thought   Q <bot> P P <eot> 3 A
    no_thought         Q 3 A
    no_curriculum      Q <bot> T T T <eot> A
    pause              Q <bot> P P P <eot> A
    no_cot             Q A
    cot                Q 1 2 3 A
    icot               Q 3 A

Everything here is lists of token ids: no text, no tensors, no files. c is a Curriculum, k a number
of thoughts. Paper sections 3 and 5.2.
"""
from dataclasses import dataclass
from typing import NamedTuple

NO_LOSS = -100  # the target where nothing is learned
ICOT_SMOOTHING = 4.0  # in training icot removes o more tokens, with a chance ~ exp(-4 o)


class Method(NamedTuple):
    fill: str | None  # between the markers: "thought", "pause"; None: nothing, not even markers
    drop: str  # when steps go: one at each "stage", "all" at once, "none" ever, or by "tokens"


METHODS = {
    "coconut": Method("thought", "stage"),
    "pause_as_thought": Method("pause", "stage"),
    "no_thought": Method(None, "stage"),
    "no_curriculum": Method("thought", "all"),
    "pause": Method("pause", "all"),
    "no_cot": Method(None, "all"),
    "cot": Method(None, "none"),
    "icot": Method(None, "tokens"),  # Deng et al. 2024, arXiv 2405.14838
}


class Markers(NamedTuple):
    """Ids of the special tokens. A pause is an ordinary token with a learned embedding; a thought's
    id only holds its place, and its embedding is always replaced."""
    bot: int  # beginning of thoughts
    eot: int  # end of thoughts
    thought: int
    pause: int


@dataclass(frozen=True)
class Curriculum:
    method: str = "coconut"
    c_thought: int = 1  # thoughts for each step that is gone
    max_latent_stage: int = 6  # the last stage that adds thoughts
    eot: bool = True  # whether <eot> follows the thoughts
    extra_stage: bool = False  # one more stage, in which all steps left are dropped
    epochs_stage_0: int = 5
    epochs_per_stage: int = 5
    uniform_prob: float = 0.0  # chance to train an example at a random stage, 0 .. its steps
    icot_tokens: int = 8  # tokens that icot removes over an epoch, one after the other
    icot_all_beyond: int = 39  # once it has removed so many, it removes all

    @property
    def fill(self):
        return METHODS[self.method].fill

    @property
    def drop(self):
        return METHODS[self.method].drop


def last_stage(c):
    """The last stage of the schedule, counted from 0."""
    if c.drop == "none":
        return 0
    if c.drop == "all":
        return c.max_latent_stage + 1  # beyond the last that writes any step
    if c.drop == "tokens":
        return c.icot_all_beyond
    return c.max_latent_stage + c.extra_stage


def stage_at(progress, c):
    """The stage of a batch. progress: epochs done, with fractions: 2.5 is amid the third. Paper
    section 3; with icot a stage is the number of tokens that are gone (Deng et al.)."""
    if c.drop == "all":
        return last_stage(c)
    later = progress - c.epochs_stage_0  # epochs after stage 0
    if later < 0:
        return 0
    if c.drop == "tokens":
        return min(int(later * c.icot_tokens + 1e-6), last_stage(c))  # a float may fall just short
    return min(1 + int(later // c.epochs_per_stage), last_stage(c))


def n_thoughts(stage, c):
    """How many thoughts (or pauses) every sequence has at this stage, even with fewer steps."""
    return min(stage, c.max_latent_stage) * c.c_thought if c.fill else 0


def prompt(question, k, c, markers):
    """What the model is given before it writes: question ids, and the place of k thoughts."""
    if c.fill is None:
        return list(question)
    return [*question, markers.bot, *[getattr(markers, c.fill)] * k, *[markers.eot] * c.eot]


def steps_left(steps, stage, c, rng=None):
    """The ids of the steps that are still written at this stage."""
    if c.drop == "tokens":
        if stage >= c.icot_all_beyond:
            return []
        removed = stage
        if rng and stage:  # removal smoothing: floor(Exp(rate)) is o with chance ~ exp(-rate * o)
            removed += int(rng.expovariate(ICOT_SMOOTHING))
        return [token for step in steps for token in step][removed:]
    if stage > c.max_latent_stage:
        return []
    return [token for step in steps[stage:] for token in step]


def build(example, stage, c, markers, rng=None):
    """(ids, targets, start) of one sequence. targets[t] is ids[t], or NO_LOSS where nothing is
    learned. The question, with <bot> where the method has it, ends before `start`.

    example: ids of its question, of each step, and of its answer with the end token. rng draws what
    is random in training: stage mixing (official dataset.py:245-252) and icot's smoothing."""
    if rng and rng.random() < c.uniform_prob:
        stage = rng.randint(0, len(example.steps))
    given = prompt(example.question, n_thoughts(stage, c), c, markers)
    learned = steps_left(example.steps, stage, c, rng) + list(example.answer)
    start = len(example.question) + (c.fill is not None)
    return given + learned, [NO_LOSS] * len(given) + learned, start
