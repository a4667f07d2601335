"""Performance profiles and probability of improvement, computed by hand, and their bootstrap intervals."""

import numpy as np
import pytest

from blip_rl.core.comparison import (
    improvement_by_task,
    performance_profile,
    performance_profile_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)

NAN = float("nan")


def test_a_profile_is_the_share_of_scores_above_each_threshold():
    scores = [[0.0, 1.0], [0.5, 1.0], [0.5, 2.0]]
    assert performance_profile(scores, [-1, 0, 0.25, 0.5, 1, 2]).tolist() == [1, 5 / 6, 5 / 6, 3 / 6, 1 / 6, 0]
    assert performance_profile([[0.3]], [0.2, 0.4]).tolist() == [1, 0]


def test_a_profile_with_a_missing_score_is_unknown():
    assert np.isnan(performance_profile([[0.0, NAN], [1.0, 1.0]], [0.5, 3.0])).all()


def test_improvement_counts_pairs_of_runs_and_half_of_the_ties():
    first, second = [[3.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    # task 1: 3 beats 2, 1, 0; 1 ties with 1, beats 0, loses to 2. task 2: both tie with 0 and lose to 1 twice.
    assert improvement_by_task(first, second).tolist() == pytest.approx([4.5 / 6, 1 / 6])
    assert probability_of_improvement(first, second) == pytest.approx((4.5 / 6 + 1 / 6) / 2)
    assert probability_of_improvement(second, first) == pytest.approx(1 - (4.5 / 6 + 1 / 6) / 2)


def test_improvement_equals_the_loop_over_pairs():
    generator = np.random.default_rng(0)
    first, second = generator.integers(4, size=(5, 3)), generator.integers(4, size=(7, 3))
    pairs = [[[(x > y) + (x == y) / 2 for y in second[:, t]] for x in first[:, t]] for t in range(3)]
    assert probability_of_improvement(first, second) == pytest.approx(np.mean(pairs))


def test_improvement_with_a_missing_score_is_unknown():
    assert np.isnan(probability_of_improvement([[NAN, 1.0]], [[0.0, 0.0]]))
    assert improvement_by_task([[NAN, 1.0]], [[0.0, 0.0]])[1] == 1


def test_scores_on_other_tasks_are_refused():
    with pytest.raises(ValueError, match="scores on 2 and 1 tasks: expected the same tasks"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]])


def test_intervals_need_ten_complete_runs():
    nine, ten = np.zeros((9, 2)), np.zeros((10, 2))
    missing = np.where(np.arange(20).reshape(10, 2) == 7, NAN, 0.0)
    assert performance_profile_interval(nine, [0.5]) is None
    assert performance_profile_interval(missing, [0.5]) is None
    assert probability_of_improvement_interval(nine, ten) is None
    assert probability_of_improvement_interval(ten, missing) is None
    assert probability_of_improvement_interval(ten, ten) == (0.5, 0.5)


def test_the_profile_interval_is_that_of_a_share():
    scores = np.repeat([0.0, 1.0], 50)[:, None]  # half of 100 runs above 0.5: a standard deviation of 0.05
    (low,), (high,) = performance_profile_interval(scores, [0.5], resamples=20_000)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05), abs=0.011)
    low, high = performance_profile_interval(scores, [-1, 2])
    assert low.tolist() == high.tolist() == [1, 0]


def test_the_improvement_interval_equals_plain_resampling():
    generator = np.random.default_rng(1)
    first, second = generator.normal(0.3, 1, (12, 2)), generator.normal(0, 1, (10, 2))

    def resampled(scores):
        return generator.choice(scores, len(scores))  # whole runs

    plain = [probability_of_improvement(resampled(first), resampled(second)) for _ in range(4_000)]
    found = probability_of_improvement_interval(first, second, resamples=8_000)
    assert found == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.02)
    assert found == probability_of_improvement_interval(first, second, resamples=8_000)


def test_games_of_a_run_that_rise_and_fall_together_are_no_further_samples():
    """Drawn separately for each of five equal games, the interval would be less than half as wide."""
    generator = np.random.default_rng(2)
    first, second = generator.normal(0.5, 1, (12, 1)), generator.normal(0, 1, (12, 1))
    assert probability_of_improvement_interval(first.repeat(5, 1), second.repeat(5, 1)) == pytest.approx(
        probability_of_improvement_interval(first, second), abs=0.03
    )
    one, five = (performance_profile_interval(scores, [0.5]) for scores in (first, first.repeat(5, 1)))
    np.testing.assert_allclose(five, one, atol=0.03)
