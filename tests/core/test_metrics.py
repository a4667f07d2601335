"""Metrics against matrices worked out by hand, and the properties that must hold for any matrix."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core import metrics

# Rows: after task 1, 2, 3. Task 1 falls from 0.9 to 0.3, task 2 rises from 0.5 to 0.6.
MATRIX = np.array([[0.9, np.nan, np.nan], [0.7, 0.5, np.nan], [0.3, 0.6, 0.8]])

matrices = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.floats(-5, 5), min_size=n, max_size=n), min_size=n, max_size=n).map(np.array)
)


def test_average_performance_by_hand():
    assert metrics.average_performance(MATRIX) == pytest.approx((0.3 + 0.6 + 0.8) / 3)


def test_backward_transfer_by_hand():
    assert metrics.backward_transfer(MATRIX) == pytest.approx(((0.3 - 0.9) + (0.6 - 0.5)) / 2)


def test_forgetting_by_hand():
    np.testing.assert_allclose(metrics.forgetting(MATRIX), [0.6, -0.1, 0.0], atol=1e-12)


def test_normalise_by_hand():
    np.testing.assert_allclose(metrics.normalise([0.1, 94.6, 189.1], 0.1, 94.6), [0.0, 1.0, 2.0])


def test_normalise_refuses_equal_scores():
    with pytest.raises(ValueError, match="two different scores"):
        metrics.normalise(1.0, 5.0, 5.0)


def test_accumulated_is_a_sum_and_a_missing_score_shows():
    assert metrics.accumulated([0.5, 0.25]) == 0.75
    assert math.isnan(metrics.accumulated([0.5, np.nan]))


def test_rounding_loss_is_before_minus_after():
    np.testing.assert_allclose(metrics.rounding_loss([0.9, 0.5], [0.4, 0.6]), [0.5, -0.1], atol=1e-12)


def test_one_task_has_no_backward_transfer():
    assert metrics.average_performance([[0.4]]) == 0.4
    assert math.isnan(metrics.backward_transfer([[0.4]]))


@pytest.mark.parametrize("matrix", [[], [[1.0, 2.0]], [1.0, 2.0]])
def test_a_matrix_that_is_not_square_is_refused(matrix):
    with pytest.raises(ValueError, match="score matrix"):
        metrics.average_performance(matrix)


@given(matrices)
def test_perfect_memory_has_no_backward_transfer(matrix):
    remembered = np.tile(np.diagonal(matrix), (len(matrix), 1))
    np.testing.assert_array_equal(metrics.forgetting(remembered), 0.0)
    if len(matrix) > 1:
        assert metrics.backward_transfer(remembered) == 0.0


@given(matrices, st.floats(0.1, 10), st.floats(-10, 10))
def test_normalising_undoes_any_scale_of_returns(matrix, scale, shift):
    once = metrics.normalise(matrix, -1.0, 3.0)
    np.testing.assert_allclose(
        metrics.normalise(matrix * scale + shift, -scale + shift, 3.0 * scale + shift), once, atol=1e-6
    )


@given(matrices)
def test_backward_transfer_is_minus_the_mean_forgetting_of_earlier_tasks(matrix):
    if len(matrix) > 1:
        expected = -metrics.forgetting(matrix)[:-1].mean()
        assert metrics.backward_transfer(matrix) == pytest.approx(expected, abs=1e-9)
