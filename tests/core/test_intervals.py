"""Interquartile means and intervals against hand-worked values, rliable's own figures and a slow bootstrap."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core.intervals import interquartile_mean, interquartile_mean_interval

# Two score matrices (runs × tasks) and what rliable 1.2.0 says of them: aggregate_iqm, and get_interval_estimates with
# 50,000 percentile resamples. Its draws are others than ours, so the ends agree to a hundredth or so.
PUBLISHED = [
    ([[0.75, 0.64], [0.43, 0.48], [0.53, 0.2], [0.1, 0.9]], 0.52, (0.2825, 0.705)),
    (
        [
            [0.13, -0.13, 0.64, 0.1],
            [-0.54, 0.36, 1.3, 0.95],
            [-0.7, -1.27, -0.62, 0.04],
            [-2.33, -0.22, -1.25, -0.73],
            [-0.54, -0.32, 0.41, 1.04],
        ],
        -0.174,
        (-0.509, 0.163),
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
def test_the_same_as_rliable(scores, mean, interval):
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
def test_the_same_as_an_obvious_loop(confidence):
    scores = np.random.default_rng(3).normal([0, 5, 9], [1, 2, 3], size=(4, 3)).tolist()
    slow = slow_interval(scores, confidence, 4000, np.random.default_rng(4))
    assert interquartile_mean_interval(scores, confidence=confidence) == pytest.approx(slow, abs=0.12)


def test_a_task_that_always_scores_the_same_adds_no_width():
    """Runs are drawn within each task: resampling runs and tasks together would mix 0 and 1 in other shares."""
    scores = np.tile([0.0, 1.0], (5, 1))
    assert interquartile_mean_interval(scores) == (0.5, 0.5)


def test_tasks_are_drawn_independently():
    """Two tasks that cancel in every run: whole runs would always have a mean of 0, single cells do not."""
    scores = np.array([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    low, high = interquartile_mean_interval(scores)
    assert low < -0.1
    assert high > 0.1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """300 experiments of 20 runs on 2 tasks, drawn around a known middle."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = interquartile_mean_interval(generator.normal(1.0, 1.0, (20, 2)), resamples=1000)
        hits += low <= 1.0 <= high
    assert 0.91 <= hits / 300 <= 0.98


def test_more_runs_narrow_the_interval():
    scores = np.random.default_rng(5).normal(size=(64, 3))
    widths = [high - low for low, high in (interquartile_mean_interval(scores[:runs]) for runs in (4, 16, 64))]
    assert widths[0] > 1.4 * widths[1] > 1.4 * 1.4 * widths[2]


def test_fewer_than_three_runs_have_no_interval():
    assert interquartile_mean_interval([[0.1, 0.2]]) is None
    assert interquartile_mean_interval([[0.1, 0.2], [0.3, 0.4]]) is None
    assert interquartile_mean_interval([0.1, 0.2]) is None
    assert interquartile_mean_interval([0.1, 0.2, 0.3]) is not None


def test_a_missing_score_leaves_neither_mean_nor_interval():
    scores = [[0.1, 0.2], [0.3, math.nan], [0.5, 0.6], [0.7, 0.8]]
    assert math.isnan(interquartile_mean(scores))
    assert interquartile_mean_interval(scores) is None


def test_one_task_may_be_a_vector():
    scores = [0.3, 0.1, 0.9, 0.4]
    assert interquartile_mean_interval(scores) == interquartile_mean_interval([[s] for s in scores])


def test_the_interval_is_repeatable_and_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    scores = PUBLISHED[1][0]
    assert interquartile_mean_interval(scores, seed=1) == interquartile_mean_interval(scores, seed=1)
    whole = interquartile_mean_interval(scores, resamples=999)
    monkeypatch.setattr("blip_rl.core.intervals._NUMBERS_AT_ONCE", 200)
    assert interquartile_mean_interval(scores, resamples=999) == whole


@pytest.mark.parametrize("scores", [[], [[]], 0.5, np.zeros((2, 2, 2))])
def test_what_is_no_matrix_of_scores_is_refused(scores):
    with pytest.raises(ValueError, match="scores of shape"):
        interquartile_mean(scores)
    with pytest.raises(ValueError, match="scores of shape"):
        interquartile_mean_interval(scores)


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 95}, {"resamples": 0}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        interquartile_mean_interval([0.1, 0.2, 0.3], **options)
