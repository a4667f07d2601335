"""Metrics of visits against values worked out by hand."""

import math

import numpy as np
import pytest

from blip_rl.core import visit_metrics
from tests.core.test_metrics import VISITS, same

NAN = np.nan


def test_relearning_steps_by_hand():
    same(visit_metrics.relearning_steps([100, 200, 300], [0.2, 0.8, 0.5], 0.7), 200)
    assert math.isnan(visit_metrics.relearning_steps([100, 200], [0.2, 0.6], 0.7))
    assert math.isnan(visit_metrics.relearning_steps([], [], 0.7))


def test_stability_gap_by_hand():
    same(visit_metrics.stability_gap(0.9, [0.4, 0.1, 0.8]), 0.8)
    assert math.isnan(visit_metrics.stability_gap(0.9, []))
    assert math.isnan(visit_metrics.stability_gap(0.9, [0.4, NAN]))


def test_last_cycle_sum_by_hand():
    same(visit_metrics.last_cycle_sum([10, 200, 30, 5, 150], VISITS), 30 + 150 + 5)
    assert math.isnan(visit_metrics.last_cycle_sum([10, NAN]))
    with pytest.raises(ValueError, match="zip"):
        visit_metrics.last_cycle_sum([10, 20], VISITS)
