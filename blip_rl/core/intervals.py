"""Several seeds in one number: interquartile mean and its stratified bootstrap interval.

Definitions: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", and their
package rliable. Scores are a matrix of runs × tasks; a vector is one task.

The matrix is for tasks learned in runs of their own. Tasks of one continual run share a trunk and are not independent:
there, pass one number for each run, such as its ACC, and whole runs are drawn.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEWEST_RUNS = 3
"""With fewer runs an interval would only pretend: show the points themselves."""
_CUT = 0.25
_NUMBERS_AT_ONCE = 1_000_000


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """IQM: the mean of what is left of all scores, runs and tasks together, without the lowest and the highest ⌊n/4⌋.

    Args:
        scores: (runs, tasks) or (runs,).

    Returns:
        The mean; NaN where a score is missing.

    Raises:
        ValueError: no scores, or not a vector or matrix.
    """
    return float(_trimmed_mean(_matrix(scores).reshape(1, -1))[0])


def interquartile_mean_interval(
    scores: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 50_000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the IQM over stratified bootstrap resamples.

    A resample draws, for each task on its own, as many runs as there are, with replacement: the tasks stay the same
    and in equal number, because another experiment would change the seeds and not the games.

    Args:
        scores: (runs, tasks) or (runs,).
        confidence: Share of the resamples inside the interval.
        resamples: How many.
        seed: Of the draws; the same scores give the same interval.

    Returns:
        (low, high); None with fewer than three runs or where a score is missing.

    Raises:
        ValueError: no scores, not a vector or matrix, a confidence outside (0, 1), or no resamples.
    """
    matrix = _matrix(scores)
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence = {confidence}, resamples = {resamples}: expected a share between 0 and 1, and at least 1"
        )
    if len(matrix) < FEWEST_RUNS or np.isnan(matrix).any():
        return None
    generator = np.random.default_rng(seed)
    chunk = max(1, _NUMBERS_AT_ONCE // matrix.size)  # so that memory stays small whatever is compared
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    means = np.concatenate([_trimmed_mean(_resampled(matrix, size, generator)) for size in sizes])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(matrix: Array, count: int, generator: np.random.Generator) -> Array:
    """(count, runs · tasks): every column drawn on its own."""
    runs, tasks = matrix.shape
    chosen = generator.integers(runs, size=(count, runs, tasks))
    return np.asarray(matrix[chosen, np.arange(tasks)].reshape(count, -1))


def _trimmed_mean(rows: Array) -> Array:
    """The mean of each row without its lowest and highest quarter; NaN where the row has one."""
    count = rows.shape[1]
    cut = math.floor(_CUT * count)
    kept = np.sort(rows, axis=1)[:, cut : count - cut].mean(axis=1)
    return np.where(np.isnan(rows).any(axis=1), np.nan, kept)


def _matrix(scores: npt.ArrayLike) -> Array:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim not in (1, 2) or matrix.size == 0:
        raise ValueError(f"scores of shape {matrix.shape}: expected (runs, tasks) or (runs,), and at least one")
    return matrix.reshape(len(matrix), -1)
