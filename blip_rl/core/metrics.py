"""One definition of every metric, on plain arrays.

R[i, j] is the mean raw return on task j after learning the first i tasks, N its normalised form. Row i − 1 of an array
here is stage i (after learning task i), column j is task j; NaN marks a cell that was not measured.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def normalise(score: npt.ArrayLike, random: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """N = (R − random) / (reference − random): 0 plays like chance, 1 like the reference. Not clipped.

    Args:
        score: Raw returns, any shape.
        random: Return of random play; NaN where unknown.
        reference: Return that counts as 1; NaN where unknown.

    Returns:
        Normalised scores; NaN where a score or a normaliser is missing.

    Raises:
        ValueError: random and reference are the same somewhere.
    """
    low, high = np.asarray(random, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if np.any(low == high):
        raise ValueError("random score = reference score: expected two different scores to normalise by")
    return np.asarray((np.asarray(score, dtype=np.float64) - low) / (high - low))


def accumulated(latest: npt.ArrayLike) -> float:
    """Sum of the latest normalised scores of all tasks seen so far (BLIP Fig. 4); NaN if one of them is missing."""
    return float(np.sum(np.asarray(latest, dtype=np.float64)))


def average_performance(matrix: npt.ArrayLike) -> float:
    """ACC = mean over tasks j of N[T, j] (BLIP Eq. 10), T the last row."""
    return float(np.mean(_square(matrix)[-1]))


def backward_transfer(matrix: npt.ArrayLike) -> float:
    """BWT = 1/(T−1) · Σ over j < T of (N[T, j] − N[j, j]) (BLIP Eq. 11); NaN for a single task, which has none.

    Below 0: earlier tasks got worse; above 0: learning later tasks made them better.
    """
    scores = _square(matrix)
    if len(scores) == 1:
        return float("nan")
    return float(np.mean((scores[-1] - np.diagonal(scores))[:-1]))


def forgetting(matrix: npt.ArrayLike) -> Array:
    """Per task: N[j, j] − N[T, j], what was lost between learning it and the end (Continual World). Shape (T,)."""
    scores = _square(matrix)
    return np.asarray(np.diagonal(scores) - scores[-1])


def rounding_loss(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Per task: N before consolidation − N after. Positive: freezing bits cost some score."""
    return np.asarray(np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64))


def _square(matrix: npt.ArrayLike) -> Array:
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.size == 0:
        raise ValueError(f"score matrix of shape {scores.shape}: expected one row and one column for each task learned")
    return scores
