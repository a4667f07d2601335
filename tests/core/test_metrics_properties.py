"""What must hold for any score matrix, and loops over the formulas as an oracle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from blip_rl.core import metrics, transfer

scores = st.floats(-5, 5, width=32)
matrices = st.integers(1, 6).flatmap(lambda n: arrays.arrays(np.float64, (n, n), elements=scores))
holey = st.integers(1, 6).flatmap(lambda n: arrays.arrays(np.float64, (n, n), elements=scores | st.just(np.nan)))


@given(matrices, st.floats(0.1, 10), st.floats(-10, 10))
def test_normalising_undoes_any_scale_and_shift_of_returns(matrix, scale, shift):
    once = metrics.normalise(matrix, -1.0, 3.0)
    again = metrics.normalise(matrix * scale + shift, -scale + shift, 3.0 * scale + shift)
    np.testing.assert_allclose(again, once, atol=1e-6)


@given(st.lists(st.floats(0, 5), min_size=2, max_size=6))
def test_total_forgetting_loses_all_that_was_learned(learned):
    """Each task is played perfectly right after it and by chance ever after."""
    matrix = np.diag(learned)
    earlier = np.array([*learned[:-1], 0.0])
    np.testing.assert_array_equal(metrics.forgetting(matrix), earlier)
    np.testing.assert_array_equal(metrics.forgetting_from_best(matrix), earlier)
    assert metrics.backward_transfer(matrix) == pytest.approx(-sum(learned[:-1]) / (len(learned) - 1))
    assert metrics.average_performance(matrix) == pytest.approx(learned[-1] / len(learned))
    lost = metrics.isolated_forgetting(matrix)
    np.testing.assert_array_equal(np.diagonal(lost, 1), learned[:-1])  # all of it goes to the very next task
    assert np.nansum(np.abs(np.triu(lost, 2))) == 0


@given(holey)
def test_the_best_score_is_never_below_the_first(matrix):
    from_best, from_first = metrics.forgetting_from_best(matrix), metrics.forgetting(matrix)
    known = ~np.isnan(from_best)
    assert (from_best[known] >= from_first[known]).all()
    assert (from_best[known] >= 0).all()
    assert np.isnan(from_best[np.isnan(from_first)]).all()


@given(holey, st.booleans())
def test_every_matrix_metric_is_its_formula_cell_by_cell(matrix, scored_untrained):
    """The formulas over 1-based i, j with sums and differences of single cells."""
    tasks = range(1, len(matrix) + 1)
    start = matrix[0] / 2 + 1
    last = len(matrix)

    def n(i, j):
        return float(start[j - 1] if i == 0 else matrix[i - 1, j - 1])

    def best(j):
        column = [n(i, j) for i in tasks if i >= j]
        return math.nan if any(map(math.isnan, column)) else max(column)

    earlier = [j for j in tasks if j < last]
    unseen_start = start if scored_untrained else None
    gained = [
        [n(j, i) - n(j - 1, i) if i > j and (j > 1 or scored_untrained) else math.nan for j in tasks] for i in tasks
    ]
    expected = {
        metrics.average_performance: sum(n(last, j) for j in tasks) / last,
        metrics.backward_transfer: sum(n(last, j) - n(j, j) for j in earlier) / len(earlier) if earlier else math.nan,
        metrics.mean_forgetting: sum(best(j) - n(last, j) for j in earlier) / len(earlier) if earlier else math.nan,
        metrics.forgetting: [n(j, j) - n(last, j) for j in tasks],
        metrics.forgetting_from_best: [best(j) - n(last, j) for j in tasks],
        metrics.learned_scores: [n(j, j) for j in tasks],
        metrics.isolated_forgetting: [[n(j - 1, i) - n(j, i) if i < j else math.nan for j in tasks] for i in tasks],
        lambda m: transfer.zero_shot_transfer(m, unseen_start): gained,
    }
    for metric, value in expected.items():
        np.testing.assert_allclose(metric(matrix), value, atol=1e-9)


curves = st.lists(st.tuples(st.integers(0, 50), scores), max_size=8, unique_by=lambda point: point[0]).map(
    lambda points: tuple(map(list, zip(*sorted(points), strict=True))) or ([], [])
)


@given(st.lists(curves, max_size=4))
def test_the_accumulated_curve_is_the_sum_of_what_each_task_scored_last(tasks):
    steps, total = metrics.accumulated_curve(tasks)
    assert steps.tolist() == sorted({step for at, _ in tasks for step in at})
    for step, value in zip(steps.tolist(), total.tolist(), strict=True):
        latest = [[s for t, s in zip(at, height, strict=True) if t <= step][-1:] for at, height in tasks]
        assert value == pytest.approx(sum(sum(found) for found in latest), abs=1e-9)


@given(curves, st.floats(0.1, 100), st.integers(-1000, 1000))
def test_the_area_lies_within_the_curve_and_does_not_know_the_unit_of_steps(curve, unit, start):
    at, height = curve
    area = transfer.area_under_curve(at, height)
    if len(at) < 2:
        assert math.isnan(area)
        return
    assert min(height) - 1e-9 <= area <= max(height) + 1e-9
    assert transfer.area_under_curve(np.array(at) * unit + start, height) == pytest.approx(area, abs=1e-6)
    pieces = [transfer.area_under_curve(at[k : k + 2], height[k : k + 2]) for k in range(len(at) - 1)]
    lengths = np.diff(at)
    assert area == pytest.approx(np.dot(pieces, lengths) / sum(lengths), abs=1e-9)
