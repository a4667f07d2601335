"""Interquartile means and intervals against hand-worked values, rliable's own figures and a slow bootstrap."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core import intervals
from blip_rl.core.intervals import (
    describe,
    estimate,
    interquartile_mean,
    interquartile_mean_interval,
    student_interval,
)

# Two score matrices (runs × tasks) and what rliable 1.2.0 says of them: aggregate_iqm, and get_interval_estimates with
# 50,000 percentile resamples. Its draws are others than ours, so the ends agree to a hundredth or so.
PUBLISHED = [
    (
        [
            [0.63, 0.9],
            [0.78, 0.23],
            [0.3, 0.87],
            [0.01, 0.82],
            [0.8, 0.47],
            [0.3, 0.28],
            [0.25, 0.45],
            [0.5, 0.55],
            [1.0, 0.79],
            [0.62, 0.99],
        ],
        0.589,
        (0.414, 0.749),
    ),
    (
        [
            [-1.84, -0.24, -1.27, 0.27],
            [0.16, -0.19, -2.52, -0.54],
            [-0.05, 0.11, -1.53, -0.48],
            [-0.98, -0.81, 1.06, -0.81],
            [-0.03, 0.88, -0.58, -0.11],
            [0.11, 0.06, -1.23, 0.08],
            [1.36, -1.55, 0.86, 0.12],
            [-0.64, 2.0, 0.76, -1.2],
            [0.07, 0.58, -0.19, 0.68],
            [-0.07, 0.67, 1.44, -0.68],
            [0.2, -0.46, 0.13, -1.19],
            [-0.58, -0.2, 0.9, 1.15],
        ],
        -0.12708333333333333,
        (-0.36875, 0.14167708),
    ),
]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7], 7),  # ⌊1/4⌋ = 0 cut
        ([0, 1, 5], 2),  # ⌊3/4⌋ = 0 cut: the plain mean
        ([0, 1, 2, 100], 1.5),  # one cut at each end
        ([0, 1, 2, 3, 4], 2),  # ⌊5/4⌋ = 1: 1, 2, 3
        ([10, 3, 1, 2, 4, 5, -90, 6, 7], 4),  # ⌊9/4⌋ = 2: without −90, 1 and 7, 10
        (range(12), 5.5),  # 3 at each end: 3 … 8
        ([[1, 2], [2, 2], [1, 1], [2, 1]], 1.5),  # 1 1 [1 1 2 2] 2 2: all cells together
        ([[1, 1], [2, 2], [3, 3]], 2),  # ⌊6/4⌋ = 1: 1 [1 2 2 3] 3
    ],
)
def test_interquartile_mean_by_hand(scores, expected):
    assert interquartile_mean(list(scores)) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_interquartile_mean_is_the_mean_of_the_middle(scores):
    ordered = sorted(scores)
    for _ in range(len(scores) // 4):
        ordered = ordered[1:-1]
    assert interquartile_mean(scores) == pytest.approx(statistics.fmean(ordered), abs=1e-9)


@pytest.mark.parametrize(("scores", "mean", "interval"), PUBLISHED)
def test_interval_agrees_with_rliable(scores, mean, interval):
    assert interquartile_mean(scores) == pytest.approx(mean, abs=1e-12)
    assert interquartile_mean_interval(scores) == pytest.approx(interval, abs=0.012)


def slow_interval(scores, confidence, resamples, generator):
    """One draw of one run of one task at a time."""
    runs, tasks = len(scores), len(scores[0])
    means = []
    for _ in range(resamples):
        drawn = [scores[generator.integers(runs)][task] for task in range(tasks) for _ in range(runs)]
        means.append(interquartile_mean(drawn))
    tail = 100 * (1 - confidence) / 2
    return np.percentile(means, [tail, 100 - tail])


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_interval_agrees_with_a_slow_loop(confidence):
    scores = np.random.default_rng(3).normal([0, 5, 9], [1, 2, 3], size=(10, 3)).tolist()
    slow = slow_interval(scores, confidence, 4000, np.random.default_rng(4))
    assert interquartile_mean_interval(scores, confidence=confidence) == pytest.approx(slow, abs=0.12)


def test_a_task_that_always_scores_the_same_adds_no_width():
    """Runs are drawn within each task: resampling runs and tasks together would mix 0 and 1 in other shares."""
    scores = np.tile([0.0, 1.0], (10, 1))
    assert interquartile_mean_interval(scores) == (0.5, 0.5)


def test_tasks_are_drawn_independently():
    """Two tasks that cancel in every run: whole runs would always have a mean of 0, single cells do not."""
    scores = np.array([[run, -run] for run in range(1, 11)])
    low, high = interquartile_mean_interval(scores)
    assert low < -0.1
    assert high > 0.1


def student_coverage(half_width, degrees):
    """P(|t| < half_width) by the midpoint rule over Student's density."""
    constant = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    width = half_width / 20_000
    at = (np.arange(20_000) + 0.5) * width
    return 2 * width * float(np.sum(constant * (1 + at**2 / degrees) ** (-(degrees + 1) / 2)))


def test_the_table_of_quantiles_holds_95_percent_of_students_distribution():
    for degrees, quantile in enumerate(intervals._T_QUANTILES, start=2):
        assert student_coverage(quantile, degrees) == pytest.approx(0.95, abs=1e-7)


def test_the_student_interval_by_hand():
    """Mean 4, deviation √(8 / 2) = 2: 4 ± 4.3027 · 2 / √3."""
    assert student_interval([4, 6, 2]) == pytest.approx(
        (4 - 4.302653 * 2 / math.sqrt(3), 4 + 4.302653 * 2 / math.sqrt(3))
    )
    with pytest.raises(ValueError, match="10 runs: expected at most 9"):
        student_interval(range(10))


@pytest.mark.parametrize("runs", [3, 5, 9, 10, 20])
def test_the_estimate_covers_the_truth_about_as_often_as_it_says(runs):
    """400 experiments around a known middle. A bootstrap of three, [min, max], covers 75 %."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = estimate(generator.normal(1.0, 1.0, runs), resamples=500).interval
        hits += low <= 1.0 <= high
    assert (0.92 if runs < 10 else 0.88) <= hits / 400 <= 0.98


def test_the_number_of_runs_decides_what_is_shown():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 5.0]
    for runs in (1, 2):
        assert estimate(values[:runs]).interval is None
        assert describe(runs) == ""
    for runs in (3, 9):
        found = estimate(values[:runs])
        assert (found.centre, found.interval) == (np.mean(values[:runs]), student_interval(values[:runs]))
        assert describe(runs) == "mean, 95 % Student interval"
    found = estimate(values)
    assert (found.centre, found.interval) == (interquartile_mean(values), interquartile_mean_interval(values))
    assert found.centre != np.mean(values)
    assert describe(10) == "interquartile mean, 95 % bootstrap interval"
    empty = estimate([])
    assert math.isnan(empty.centre)
    assert empty.interval is None


def test_no_bootstrap_below_ten_runs():
    for runs in range(1, 10):
        assert interquartile_mean_interval(np.arange(runs)) is None
        assert interquartile_mean_interval(np.ones((runs, 20))) is None, "tasks are not runs"
    assert interquartile_mean_interval(np.arange(10)) is not None


def test_a_missing_score_leaves_neither_mean_nor_interval():
    scores = np.tile([[0.1, 0.2], [0.3, 0.4]], (5, 1))
    scores[3, 1] = math.nan
    assert math.isnan(interquartile_mean(scores))
    assert interquartile_mean_interval(scores) is None
    for values in ([0.1, math.nan, 0.3], scores[:, 1]):
        assert math.isnan(estimate(values).centre)
        assert estimate(values).interval is None


def test_one_task_may_be_a_vector():
    scores = [0.3, 0.1, 0.9, 0.4, 0.2, 0.8, 0.7, 0.6, 0.5, 0.0]
    assert interquartile_mean_interval(scores) == interquartile_mean_interval([[s] for s in scores])


def test_the_interval_is_repeatable_and_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    scores = PUBLISHED[1][0]
    assert interquartile_mean_interval(scores, seed=1) == interquartile_mean_interval(scores, seed=1)
    whole = interquartile_mean_interval(scores, resamples=999)
    monkeypatch.setattr("blip_rl.core.intervals._NUMBERS_AT_ONCE", 200)
    assert interquartile_mean_interval(scores, resamples=999) == whole


@pytest.mark.parametrize("scores", [[], [[]], 0.5, np.zeros((2, 2, 2))])
def test_scores_that_are_no_vector_or_matrix_are_refused(scores):
    with pytest.raises(ValueError, match="scores of shape"):
        interquartile_mean(scores)
    with pytest.raises(ValueError, match="scores of shape"):
        interquartile_mean_interval(scores)


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 95}, {"resamples": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        interquartile_mean_interval([0.1, 0.2, 0.3], **options)
