"""Metrics of transfer against values worked out by hand."""

import math

import numpy as np
import pytest

from blip_rl.core import transfer
from tests.core.test_metrics import FULL, MATRIX, same

NAN = np.nan


def test_zero_shot_transfer_by_hand():
    # Learning task 2 moved task 3 from 0.2 to 0.0. What learning task 1 gave needs the scores from before.
    same(transfer.zero_shot_transfer(FULL), [[NAN, NAN, NAN], [NAN, NAN, NAN], [NAN, -0.2, NAN]])
    # With them: task 2 from 0.0 to 0.1, task 3 from −0.1 to 0.2.
    gained = transfer.zero_shot_transfer(FULL, untrained=[0.3, 0.0, -0.1])
    same(gained, [[NAN, NAN, NAN], [0.1, NAN, NAN], [0.3, -0.2, NAN]])


def test_zero_shot_transfer_of_a_run_that_scored_no_unseen_task_is_not_known():
    assert np.isnan(transfer.zero_shot_transfer(MATRIX)).all()


def test_zero_shot_transfer_refuses_scores_that_do_not_fit():
    with pytest.raises(ValueError, match=r"untrained scores of shape \(2,\)"):
        transfer.zero_shot_transfer(FULL, untrained=[0.0, 0.0])


def test_area_under_curve_by_hand():
    # 10 steps at a mean of 0.25, then 30 at 0.75: (10 · 0.25 + 30 · 0.75) / 40 = 25 / 40
    same(transfer.area_under_curve([100, 110, 140], [0.0, 0.5, 1.0]), 0.625)


def test_area_of_a_level_curve_is_its_height():
    same(transfer.area_under_curve([3, 4, 50, 51], [0.7] * 4), 0.7)


@pytest.mark.parametrize(("steps", "scores"), [([], []), ([5], [0.5]), ([1, 2, 3], [0.1, NAN, 0.3])])
def test_area_needs_two_points_and_every_score(steps, scores):
    assert math.isnan(transfer.area_under_curve(steps, scores))


@pytest.mark.parametrize("steps", [[1, 1, 2], [3, 2, 1], [1, NAN, 2], [[1, 2, 3]], [1, 2]])
def test_area_refuses_steps_that_are_no_axis(steps):
    with pytest.raises(ValueError, match="expected"):
        transfer.area_under_curve(steps, [0.1, 0.2, 0.3])


def test_forward_transfer_by_hand():
    # (0.75 − 0.5) / (1 − 0.5) = 0.5; (0.25 − 0.5) / 0.5 = −0.5; as from scratch: 0
    same(transfer.forward_transfer([0.75, 0.25, 0.4], [0.5, 0.5, 0.4]), [0.5, -0.5, 0.0])


def test_forward_transfer_is_not_defined_where_nothing_can_be_gained():
    same(transfer.forward_transfer([0.5, 1.5, 0.5, NAN], [1.0, 1.2, NAN, 0.5]), [NAN] * 4)


def test_plasticity_by_hand():
    # 0.9 / 0.9 = 1: task 1 is a single-task run itself. 0.5 / 0.8 = 0.625. −0.1 / 0.5 = −0.2: worse than chance.
    same(transfer.plasticity([0.9, 0.5, -0.1], [0.9, 0.8, 0.5]), [1.0, 0.625, -0.2])


def test_plasticity_is_not_defined_against_an_agent_that_learned_nothing():
    same(transfer.plasticity([0.5, 0.5, 0.5, NAN], [0.0, -0.1, NAN, 0.5]), [NAN] * 4)
