"""What each method is known for, on four CartPoles in sequence with the shipped recipes (slow: 40 seconds a run).

The limits come from the five seeds of each method in docs/results/methods.md and lie outside the range of those runs.
"""

import numpy as np
import pytest

from blip_rl.core import metrics
from blip_rl.recipes import resolve
from blip_rl.reporting.scores import load_scores
from blip_rl.run.train import train

pytestmark = pytest.mark.slow


def matrix(agent, folder, seed=0, overrides=()):
    config = resolve("cartpole4", agent, steps="40k", seed=seed, device="cpu", overrides=overrides)
    return load_scores(train(config, out=folder / f"{agent}-{seed}", threads=1, quiet=True)).after_normalised


@pytest.mark.parametrize(
    ("agent", "overrides"), [("freeze", ()), ("single", ()), ("packnet", ("method.tasks=4",))], ids=lambda value: value
)
def test_methods_with_fixed_weights_per_task_forget_nothing(agent, overrides, tmp_path):
    scores = matrix(agent, tmp_path, overrides=overrides)
    earlier = np.tril(np.ones_like(scores), -1).astype(bool)
    assert np.array_equal(scores[earlier], np.broadcast_to(np.diagonal(scores), scores.shape)[earlier])


@pytest.mark.parametrize(("agent", "least"), [("gpm", -0.1), ("sgp", -0.25), ("l2", -0.1)])
def test_methods_that_constrain_the_trunk_forget_little(agent, least, tmp_path):
    assert metrics.backward_transfer(matrix(agent, tmp_path)) > least


def test_replay_ends_with_a_high_acc(tmp_path):
    assert metrics.average_performance(matrix("clear", tmp_path)) > 0.35


def test_multitask_has_scores_of_the_last_stage_only(tmp_path):
    scores = matrix("multitask", tmp_path)
    assert np.isnan(scores[:-1]).all()
    assert np.isfinite(scores[-1]).all()


def test_ewc_ends_with_a_higher_acc_than_fine_tuning(tmp_path):
    acc = {
        agent: np.mean([metrics.average_performance(matrix(agent, tmp_path, seed)) for seed in range(3)])
        for agent in ("finetune", "ewc", "ewc-online")
    }
    assert acc["finetune"] < 0.23, acc
    assert min(acc["ewc"], acc["ewc-online"]) > 0.23, acc
