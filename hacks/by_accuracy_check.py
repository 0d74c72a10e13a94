"""Stages by accuracy: which stage follows which accuracies."""
from curriculum import Curriculum, last_stage, stage_by_accuracy


def test_a_stage_lasts_until_an_epoch_reaches_the_accuracy():
    c, history, stages = Curriculum(max_latent_stage=2, extra_stage=True), [], []
    for accuracy in (0.2, 0.9, 0.5, 0.95, 1.0, 0.1, 0.99, 1.0):
        stages.append(stage_by_accuracy(history, c, promote_at=0.9))
        history.append({"stage": stages[-1], "val_accuracy": accuracy})
    assert stages == [0, 0, 1, 1, 2, 3, 3, 3]
    assert max(stages) == last_stage(c)
