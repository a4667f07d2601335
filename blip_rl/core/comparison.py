"""Compare agents over runs and tasks without averaging scores: performance profiles and probability of improvement.

Agarwal, Schwarzer, Castro, Courville, Bellemare, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", NeurIPS 2021 (arXiv 2108.13264), Sec. 4. Scores are an array (runs, tasks). Intervals are percentiles over
bootstrap resamples and need ten runs (:data:`~blip_rl.core.intervals.FEWEST_RUNS_FOR_BOOTSTRAP`). Whole runs are drawn,
with the scores of all of their tasks. The paper draws the runs of each task separately, as its runs learn one task
each; the scores of a continual run depend on each other, and such intervals would be far too narrow for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from blip_rl.core.intervals import FEWEST_RUNS_FOR_BOOTSTRAP, Array, score_table

_NUMBERS_AT_ONCE = 1_000_000


def performance_profile(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> Array:
    """Compute the share of all scores, runs and tasks pooled, that are above each threshold τ.

    Args:
        scores: (runs, tasks), normalised.
        thresholds: (thresholds,) increasing values of τ.

    Returns:
        (thresholds,) shares, not increasing; NaN if a score is missing.

    Raises:
        ValueError: no scores, or not a matrix.
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    return np.asarray(_profiles(score_table(scores).reshape(1, -1), levels)[0])


def performance_profile_interval(
    scores: npt.ArrayLike, thresholds: npt.ArrayLike, *, resamples: int = 2_000, seed: int = 0
) -> tuple[Array, Array] | None:
    """Compute the 95 % bootstrap interval of :func:`performance_profile` at each threshold.

    Args:
        scores: (runs, tasks), normalised.
        thresholds: (thresholds,) increasing values of τ.
        resamples: Number of resamples.
        seed: Seed of the draws; the same scores give the same interval.

    Returns:
        (low, high), each (thresholds,); None with fewer than ten runs or where a score is missing.

    Raises:
        ValueError: no scores, or not a matrix.
    """
    table, levels = score_table(scores), np.asarray(thresholds, dtype=np.float64)
    if len(table) < FEWEST_RUNS_FOR_BOOTSTRAP or np.isnan(table).any():
        return None
    generator = np.random.default_rng(seed)
    runs = len(table)
    found = [
        _profiles(table[generator.integers(runs, size=(size, runs))].reshape(size, -1), levels)
        for size in _chunks(resamples, table.size)
    ]
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975], axis=0)
    return low, high


def improvement_by_task(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Compute for each task the probability that a run of the first agent scores higher than one of the second.

    P(X > Y) + ½ P(X = Y) over all pairs of runs: the Mann-Whitney U statistic divided by the number of pairs.

    Args:
        first: (runs, tasks) scores of X.
        second: (runs, tasks) scores of Y; the number of runs may differ.

    Returns:
        (tasks,) probabilities; NaN where a score is missing.

    Raises:
        ValueError: no scores, not matrices, or different numbers of tasks.
    """
    return np.asarray(_wins(first, second).mean(axis=(1, 2)))


def probability_of_improvement(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Compute the mean over tasks of :func:`improvement_by_task`: ½ if neither agent is better.

    Args:
        first: (runs, tasks) scores of X.
        second: (runs, tasks) scores of Y.

    Returns:
        The probability; NaN if a score is missing.

    Raises:
        ValueError: no scores, not matrices, or different numbers of tasks.
    """
    return float(improvement_by_task(first, second).mean())


def probability_of_improvement_interval(
    first: npt.ArrayLike, second: npt.ArrayLike, *, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float] | None:
    """Compute the 95 % bootstrap interval of :func:`probability_of_improvement`; resamples the runs of both agents.

    Args:
        first: (runs, tasks) scores of X.
        second: (runs, tasks) scores of Y.
        resamples: Number of resamples.
        seed: Seed of the draws; the same scores give the same interval.

    Returns:
        (low, high); None if an agent has fewer than ten runs or a score is missing.

    Raises:
        ValueError: no scores, not matrices, or different numbers of tasks.
    """
    wins = _wins(first, second)
    tasks, runs, others = wins.shape
    if min(runs, others) < FEWEST_RUNS_FOR_BOOTSTRAP or np.isnan(wins).any():
        return None
    generator = np.random.default_rng(seed)
    means = []
    for size in _chunks(resamples, wins.size):
        # How often a resample contains each run; the mean over its pairs is bilinear in these counts.
        drawn = generator.multinomial(runs, np.full(runs, 1 / runs), size=size)
        drawn_others = generator.multinomial(others, np.full(others, 1 / others), size=size)
        means.append(np.einsum("ri,tij,rj->r", drawn, wins, drawn_others, optimize=True))
    low, high = np.quantile(np.concatenate(means) / (tasks * runs * others), [0.025, 0.975])
    return float(low), float(high)


def _profiles(rows: Array, thresholds: Array) -> Array:
    """Return the share of each row's scores above each threshold, (rows, thresholds); NaN for rows with a NaN."""
    count = rows.shape[1]
    above = np.array([count - np.searchsorted(row, thresholds, side="right") for row in np.sort(rows, axis=1)]) / count
    missing = np.isnan(rows).any(axis=1, keepdims=True)
    return np.where(missing, np.nan, above)


def _wins(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    """Return for each task and pair of runs 1 if the first agent's is higher, ½ if equal, (tasks, runs, runs)."""
    own, other = score_table(first), score_table(second)
    if own.shape[1] != other.shape[1]:
        raise ValueError(f"scores on {own.shape[1]} and {other.shape[1]} tasks: expected the same tasks")
    difference = own.T[:, :, None] - other.T[:, None, :]
    return np.asarray((np.sign(difference) + 1) / 2)


def _chunks(resamples: int, size: int) -> Iterator[int]:
    """Yield numbers of resamples that are handled at once, so that memory is bounded."""
    chunk = max(1, _NUMBERS_AT_ONCE // size)
    for start in range(0, resamples, chunk):
        yield min(chunk, resamples - start)
