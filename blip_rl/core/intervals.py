"""Aggregate scores over runs (seeds) with 95 % confidence intervals; the method depends on the number of runs.

Ten or more runs: interquartile mean and stratified bootstrap interval, as defined by Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", and their package rliable. Three to nine runs: mean
and Student's t interval, because the bootstrap of so few values has far less than its nominal coverage (of three values
it is [min, max], which covers 75 %). Fewer: the values alone. :func:`estimate` chooses.

Scores are a matrix of runs × tasks; a vector is one task.

A matrix requires that every task was learned in a run of its own. Tasks of one continual run share a trunk and are not
independent: pass one number per run instead, such as its ACC, so that whole runs are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEWEST_RUNS = 3
"""Minimum number of runs for an interval."""
FEWEST_RUNS_FOR_BOOTSTRAP = 10
"""Minimum number of runs for a bootstrap interval; with fewer it is too narrow."""
_T_QUANTILES = (4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004)
"""97.5 % quantiles of Student's t distribution with 2 to 8 degrees of freedom, for 3 to 9 runs."""
_CUT = 0.25
_NUMBERS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A score aggregated over runs.

    Attributes:
        values: The score of each run.
        centre: Interquartile mean of ten or more runs, else the mean; NaN if a value is missing or there are none.
        interval: (low, high) of the 95 % interval; None with fewer than three runs or if a value is missing.
    """

    values: tuple[float, ...]
    centre: float
    interval: tuple[float, float] | None


def estimate(values: Iterable[float], *, resamples: int = 50_000) -> Estimate:
    """Aggregate one number per run with the method for this number of runs.

    Args:
        values: One number per run; may be empty.
        resamples: Bootstrap resamples, for ten or more runs.
    """
    found = [float(value) for value in values]
    if len(found) >= FEWEST_RUNS_FOR_BOOTSTRAP:
        interval = interquartile_mean_interval(found, resamples=resamples)
        return Estimate(tuple(found), interquartile_mean(found), interval)
    return Estimate(tuple(found), float(np.mean(found)) if found else math.nan, student_interval(found))


def describe(runs: int) -> str:
    """Describe the result of :func:`estimate` for this number of runs; empty below three runs."""
    if runs >= FEWEST_RUNS_FOR_BOOTSTRAP:
        return "interquartile mean, 95 % bootstrap interval"
    return "mean, 95 % Student interval" if runs >= FEWEST_RUNS else ""


def student_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Compute the 95 % Student's t interval of the mean: mean ± t · s / √n.

    Args:
        values: One number per run.

    Returns:
        (low, high); None with fewer than three runs or if a value is missing.

    Raises:
        ValueError: ten values or more; use :func:`interquartile_mean_interval`.
    """
    count = len(values)
    if count >= FEWEST_RUNS_FOR_BOOTSTRAP:
        raise ValueError(f"{count} runs: expected at most {FEWEST_RUNS_FOR_BOOTSTRAP - 1} (bootstrap more than that)")
    if count < FEWEST_RUNS or np.isnan(values).any():
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = _T_QUANTILES[count - FEWEST_RUNS] * deviation / math.sqrt(count)
    return mean - half, mean + half


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """Compute the IQM: the mean of all n scores, runs and tasks pooled, without the lowest and the highest ⌊n/4⌋.

    Args:
        scores: (runs, tasks) or (runs,).

    Returns:
        The mean; NaN if a score is missing.

    Raises:
        ValueError: no scores, or not a vector or matrix.
    """
    return float(_trimmed_mean(score_table(scores).reshape(1, -1))[0])


def interquartile_mean_interval(
    scores: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 50_000, seed: int = 0
) -> tuple[float, float] | None:
    """Compute the percentile interval of the IQM over stratified bootstrap resamples.

    A resample draws runs with replacement, for each task separately. Tasks are not resampled, because a repeated
    experiment would change the seeds and not the games.

    Args:
        scores: (runs, tasks) or (runs,).
        confidence: Share of the resamples inside the interval.
        resamples: Number of resamples.
        seed: Seed of the draws; the same scores give the same interval.

    Returns:
        (low, high); None with fewer than ten runs or where a score is missing.

    Raises:
        ValueError: no scores, not a vector or matrix, a confidence outside (0, 1), or no resamples.
    """
    matrix = score_table(scores)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence = {confidence}, resamples = {resamples}: expected a share between 0 and 1, and at least 1"
        )
    if len(matrix) < FEWEST_RUNS_FOR_BOOTSTRAP or np.isnan(matrix).any():
        return None
    generator = np.random.default_rng(seed)
    chunk = max(1, _NUMBERS_AT_ONCE // matrix.size)  # bounds memory for matrices of any size
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = np.concatenate([_trimmed_mean(_resamples_of(matrix, size, generator)) for size in sizes])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resamples_of(matrix: Array, count: int, generator: np.random.Generator) -> Array:
    """Draw bootstrap resamples of the runs, for each task separately.

    Args:
        matrix: (runs, tasks) scores.
        count: Number of resamples.
        generator: Random generator.

    Returns:
        (count, runs · tasks).
    """
    runs, tasks = matrix.shape
    # Runs are drawn for each task separately (stratified): no resample lacks a task.
    chosen = generator.integers(runs, size=(count, runs, tasks))
    return np.asarray(matrix[chosen, np.arange(tasks)].reshape(count, -1))


def _trimmed_mean(rows: Array) -> Array:
    """Compute the mean of each row without its lowest and highest quarter; NaN for rows with a NaN."""
    count = rows.shape[1]
    cut = math.floor(_CUT * count)  # whole scores are cut, as in scipy.stats.trim_mean, which rliable calls
    kept = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return np.where(np.isnan(rows).any(axis=1), np.nan, kept)


def score_table(scores: npt.ArrayLike) -> Array:
    """Return scores as an array (runs, tasks); a vector has one task.

    Raises:
        ValueError: no scores, or not a vector or matrix.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim not in (1, 2) or matrix.size == 0:
        raise ValueError(f"scores of shape {matrix.shape}: expected (runs, tasks) or (runs,), and at least one")
    return matrix.reshape(len(matrix), -1)
