"""Metrics against matrices worked out by hand, with the arithmetic beside them."""

import math

import numpy as np
import pytest

from blip_rl.core import metrics, transfer, visit_metrics

NAN = np.nan

# Rows: after task 1, 2, 3. Task 1 falls from 0.9 over 0.7 to 0.3, task 2 rises from 0.5 to 0.6.
MATRIX = np.array([[0.9, NAN, NAN], [0.7, 0.5, NAN], [0.3, 0.6, 0.8]])

# The same run with every cell scored, unseen tasks too. Task 1 is best after task 2.
FULL = np.array([[0.6, 0.1, 0.2], [0.9, 0.5, 0.0], [0.3, 0.4, 0.8]])

# Three tasks learned at the same time: nothing is known but the end.
TOGETHER = np.array([[NAN, NAN, NAN], [NAN, NAN, NAN], [0.3, 0.6, 0.9]])


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


# Normalising


def test_normalise_by_hand():
    # (0.1 − 0.1) / 94.5 = 0; (94.6 − 0.1) / 94.5 = 1; (189.1 − 0.1) / 94.5 = 2: twice the reference is not clipped
    same(metrics.normalise([0.1, 94.6, 189.1], 0.1, 94.6), [0.0, 1.0, 2.0])


def test_normalise_takes_a_normaliser_for_each_column():
    # Column 1 from −20 to 20: (0 + 20) / 40 = 0.5, (20 + 20) / 40 = 1. Column 2 from 10 to 110: 0.9, −0.1.
    same(metrics.normalise([[0, 100], [20, 0]], [-20, 10], [20, 110]), [[0.5, 0.9], [1.0, -0.1]])


def test_a_missing_score_or_normaliser_is_a_missing_score():
    same(metrics.normalise([1.0, NAN, 3.0], [0.0, 0.0, NAN], [2.0, 2.0, 2.0]), [0.5, NAN, NAN])


def test_normalise_refuses_equal_scores():
    with pytest.raises(ValueError, match="two different scores"):
        metrics.normalise(1.0, 5.0, 5.0)


def test_normalise_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"scores of shape \(3,\), random scores of \(2,\)"):
        metrics.normalise([1, 2, 3], [0, 0], [1, 1])


# What the run has reached


def test_accumulated_is_a_sum_and_a_missing_score_shows():
    assert metrics.accumulated([0.5, 0.25]) == 0.75
    assert math.isnan(metrics.accumulated([0.5, NAN]))


def test_accumulated_refuses_a_matrix():
    with pytest.raises(ValueError, match=r"latest scores of shape \(3, 3\)"):
        metrics.accumulated(MATRIX)


def test_accumulated_curve_by_hand():
    # Step 10: task 1 alone, 0.5. Step 20: 0.9. Step 30: task 1 still 0.9, task 2 has come with 0.2. Step 40: 0.6 + 0.8.
    steps, total = metrics.accumulated_curve([([10, 20, 40], [0.5, 0.9, 0.6]), ([30, 40], [0.2, 0.8])])
    np.testing.assert_array_equal(steps, [10, 20, 30, 40])
    same(total, [0.5, 0.9, 1.1, 1.4])


def test_accumulated_curve_shows_a_missing_score_until_the_next_one():
    _, total = metrics.accumulated_curve([([1, 3], [NAN, 0.5]), ([2], [0.25])])
    same(total, [NAN, NAN, 0.75])


def test_accumulated_curve_of_nothing_is_empty():
    steps, total = metrics.accumulated_curve([])
    assert (len(steps), len(total)) == (0, 0)
    steps, total = metrics.accumulated_curve([([], []), ([5], [0.5])])
    assert (steps.tolist(), total.tolist()) == ([5], [0.5])


def test_average_performance_by_hand():
    same(metrics.average_performance(MATRIX), 1.7 / 3)  # (0.3 + 0.6 + 0.8) / 3


def test_tasks_learned_together_have_a_performance_and_no_order():
    same(metrics.average_performance(TOGETHER), 0.6)  # (0.3 + 0.6 + 0.9) / 3
    assert math.isnan(metrics.backward_transfer(TOGETHER))
    assert math.isnan(metrics.mean_forgetting(TOGETHER))
    assert math.isnan(metrics.learned_later(TOGETHER))
    same(metrics.forgetting(TOGETHER), [NAN, NAN, 0.0])
    same(metrics.forgetting_from_best(TOGETHER), [NAN, NAN, 0.0])


def test_two_tasks_learned_together_are_not_taken_for_a_second_task():
    assert math.isnan(metrics.learned_later([[NAN, NAN], [0.5, 0.7]]))


# What was lost


def test_backward_transfer_by_hand():
    same(metrics.backward_transfer(MATRIX), -0.25)  # ((0.3 − 0.9) + (0.6 − 0.5)) / 2


def test_forgetting_by_hand():
    same(metrics.forgetting(MATRIX), [0.6, -0.1, 0.0])  # 0.9 − 0.3, 0.5 − 0.6, 0.8 − 0.8


def test_forgetting_from_best_by_hand():
    # Task 1: max(0.6, 0.9, 0.3) − 0.3 = 0.6, where the other form has 0.6 − 0.3. Task 2: max(0.5, 0.4) − 0.4.
    same(metrics.forgetting_from_best(FULL), [0.6, 0.1, 0.0])
    same(metrics.forgetting(FULL), [0.3, 0.1, 0.0])
    # A task that is best at the end has lost nothing: max(0.5, 0.6) − 0.6.
    same(metrics.forgetting_from_best(MATRIX), [0.6, 0.0, 0.0])


def test_what_a_task_scored_before_it_was_learned_is_no_best():
    lucky = FULL.copy()
    lucky[0, 1] = 5.0
    same(metrics.forgetting_from_best(lucky), metrics.forgetting_from_best(FULL))


def test_mean_forgetting_by_hand():
    same(metrics.mean_forgetting(FULL), 0.35)  # (0.6 + 0.1) / 2: the last task has no say


def test_isolated_forgetting_by_hand():
    # Task 1: learning task 2 took 0.9 − 0.7, task 3 took 0.7 − 0.3. Task 2: task 3 took 0.5 − 0.6.
    same(metrics.isolated_forgetting(MATRIX), [[NAN, 0.2, 0.4], [NAN, NAN, -0.1], [NAN, NAN, NAN]])


def test_consolidation_loss_is_before_minus_after():
    same(metrics.consolidation_loss([0.9, 0.5], [0.4, 0.6]), [0.5, -0.1])
    same(metrics.consolidation_loss([0.9, NAN], [NAN, 0.6]), [NAN, NAN])


# What was learned


def test_learned_by_hand():
    same(metrics.learned_scores(MATRIX), [0.9, 0.5, 0.8])
    same(metrics.learned_later(MATRIX), 0.65)  # (0.5 + 0.8) / 2


# One task, missing cells, wrong shapes

MEANS = (
    metrics.average_performance,
    metrics.backward_transfer,
    metrics.mean_forgetting,
    metrics.learned_later,
)
PER_TASK = (metrics.forgetting, metrics.forgetting_from_best, metrics.learned_scores)
PER_PAIR = (metrics.isolated_forgetting, transfer.zero_shot_transfer)


def test_one_task_alone():
    assert [metric([[0.4]]) for metric in PER_TASK] == [[0.0], [0.0], [0.4]]
    assert metrics.average_performance([[0.4]]) == 0.4
    assert all(math.isnan(metric([[0.4]])) for metric in MEANS[1:])
    for metric in PER_PAIR:
        same(metric([[0.4]]), [[NAN]])


# For each cell of two tasks: which means need it.
NEEDS = {
    (0, 0): (metrics.backward_transfer, metrics.mean_forgetting, metrics.learned_later),
    (0, 1): (),
    (1, 0): (metrics.average_performance, metrics.backward_transfer, metrics.mean_forgetting),
    (1, 1): (metrics.average_performance, metrics.learned_later),
}


@pytest.mark.parametrize("cell", NEEDS)
def test_a_missing_cell_makes_exactly_the_metrics_undefined_that_need_it(cell):
    matrix = np.array([[0.1, 0.2], [0.3, 0.4]])
    matrix[cell] = NAN
    assert {metric for metric in MEANS if math.isnan(metric(matrix))} == set(NEEDS[cell])


@pytest.mark.parametrize("metric", [*MEANS, *PER_TASK, *PER_PAIR])
@pytest.mark.parametrize("matrix", [[], [[]], [[1.0, 2.0]], [1.0, 2.0], 3.0, [[1.0], [1.0, 2.0]], [["a"]]])
def test_a_matrix_that_is_not_square_is_refused(metric, matrix):
    with pytest.raises(ValueError, match=r"score matrix.*expected one row"):
        metric(matrix)


@pytest.mark.parametrize("metric", [metrics.consolidation_loss, transfer.forward_transfer, transfer.plasticity])
def test_two_rows_of_different_length_are_refused(metric):
    with pytest.raises(ValueError, match=r"of shape \(2,\).*of shape \(1,\): expected the same"):
        metric([0.1, 0.2], [0.3])


# Tasks that come back: stages learn tasks 1 2 1 3 2.
VISITS = [0, 1, 0, 2, 1]
RETURNING = np.array(
    [
        [0.8, NAN, NAN],
        [0.5, 0.6, NAN],
        [0.9, 0.4, NAN],
        [0.7, 0.2, 0.5],
        [0.6, 0.7, 0.1],
    ]
)


def test_metrics_of_visits_by_hand():
    # Last visits: task 1 in stage 3 (0.9), task 2 in stage 5 (0.7), task 3 in stage 4 (0.5).
    same(metrics.learned_scores(RETURNING, VISITS), [0.9, 0.7, 0.5])
    same(metrics.forgetting(RETURNING, VISITS), [0.3, 0.0, 0.4])
    same(metrics.forgetting_from_best(RETURNING, VISITS), [0.3, 0.0, 0.4])
    same(metrics.average_performance(RETURNING), (0.6 + 0.7 + 0.1) / 3)
    same(metrics.worst_performance(RETURNING), 0.1)
    same(metrics.backward_transfer(RETURNING, VISITS), -(0.3 + 0.4) / 2)  # task 2 was learned last
    same(metrics.worst_backward_transfer(RETURNING, VISITS), -0.4)
    same(metrics.mean_forgetting(RETURNING, VISITS), (0.3 + 0.4) / 2)
    same(metrics.worst_forgetting(RETURNING, VISITS), 0.4)
    # Stage 3: 0.8 after stage 1, 0.5 after stage 2. Stage 5: 0.6 after stage 2, 0.2 after stage 4.
    same(visit_metrics.forgetting_between_visits(RETURNING, VISITS), [NAN, NAN, 0.3, NAN, 0.4])


def test_stages_of_tasks_without_a_column_are_visits_to_none():
    # The second of three tasks is not normalised; then the last one is not.
    first_and_last = np.asarray(MATRIX)[:, [0, 2]]
    same(metrics.forgetting(first_and_last, [0, -1, 1]), np.asarray(metrics.forgetting(MATRIX))[[0, 2]])
    same(metrics.backward_transfer(first_and_last, [0, -1, 1]), -metrics.forgetting(MATRIX)[0])
    first_two = np.asarray(MATRIX)[:, :2]
    same(metrics.backward_transfer(first_two, [0, 1, -1]), metrics.backward_transfer(MATRIX))
    same(metrics.mean_forgetting(first_two, [0, 1, -1]), metrics.mean_forgetting(MATRIX))
    same(visit_metrics.forgetting_between_visits(first_two, [0, 1, -1]), [NAN] * 3)


def test_visits_in_the_order_of_tasks_change_nothing():
    once = range(3)
    for function in (
        metrics.backward_transfer,
        metrics.forgetting,
        metrics.forgetting_from_best,
        metrics.mean_forgetting,
    ):
        same(function(MATRIX, once), function(MATRIX))
    same(visit_metrics.forgetting_between_visits(MATRIX), [NAN] * 3)


def test_worst_task_by_hand():
    same(metrics.worst_performance(MATRIX), 0.3)
    same(metrics.worst_backward_transfer(MATRIX), 0.3 - 0.9)
    assert math.isnan(metrics.worst_backward_transfer([[0.5]]))
    assert math.isnan(metrics.worst_forgetting([[0.5]]))
    assert math.isnan(metrics.worst_performance([[0.5, NAN], [0.5, NAN]]))


@pytest.mark.parametrize("visits", [[0, 1], [0, 1, 1], [0, 1, 2, 0], [0, 1, 3]])
def test_visits_that_do_not_fit_the_matrix_are_refused(visits):
    with pytest.raises(ValueError, match=r"visits .* with a score matrix of shape"):
        metrics.backward_transfer(MATRIX, visits)
