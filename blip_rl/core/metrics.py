"""Metrics of continual learning, each defined once, on plain arrays.

R[s, j] is the mean raw return on task j after stage s, N its normalised form. A score matrix has one row for each of
the S stages and one column for each of the T tasks. Stage s learns task v(s), the entry s of ``visits``; without
``visits`` S = T and stage j learns task j. ℓ(j) is the last stage that learns task j. Scores before any training are
not part of the matrix. NaN marks a cell that was not measured; a metric that needs such a cell is NaN, never 0 and
never a partial sum. Functions accept raw returns too, except those whose docstring says N.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blip_rl.core.score_matrix import (
    Array,
    Visits,
    checked_curve,
    checked_row,
    same_shape,
    score_matrix,
    square_matrix,
    visit_order,
    without_last,
)


def normalise(score: npt.ArrayLike, random: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """Normalise scores: N = (R − random) / (reference − random), 0 for random play, 1 for the reference; not clipped.

    Args:
        score: Raw returns, any shape.
        random: Return of random play; NaN if unknown.
        reference: Return that is normalised to 1; NaN if unknown.

    Returns:
        Normalised scores; NaN where a score or a normaliser is NaN.

    Raises:
        ValueError: random and reference are the same somewhere, or the three shapes do not fit together.
    """
    raw, low, high = (np.asarray(values, dtype=np.float64) for values in (score, random, reference))
    try:
        np.broadcast_shapes(raw.shape, low.shape, high.shape)
    except ValueError:
        raise ValueError(
            f"scores of shape {raw.shape}, random scores of {low.shape}, reference scores of {high.shape}: "
            "expected a normaliser for each score, for each column or for all"
        ) from None
    if np.any(low == high):
        raise ValueError("random score = reference score: expected two different scores to normalise by")
    return np.asarray((raw - low) / (high - low))


def accumulated(latest: npt.ArrayLike) -> float:
    """Compute the sum of the latest normalised scores of all tasks seen so far (BLIP Fig. 4); NaN if one is missing."""
    return float(np.sum(checked_row("latest scores", latest)))


def accumulated_curve(curves: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]) -> tuple[npt.NDArray[np.int64], Array]:
    """Compute the accumulated score at every evaluated step: A(s) = Σ over tasks seen at s of the latest N.

    Source: BLIP Fig. 4.

    Args:
        curves: (env_steps, N) of each task, steps increasing. A task counts as seen from its first point on.

    Returns:
        (env_steps, A), steps unique and increasing.

    Raises:
        ValueError: a curve's arrays have different shapes, or its steps do not increase.
    """
    checked = [checked_curve(steps, scores) for steps, scores in curves]
    grid = np.unique(np.concatenate([steps for steps, _ in checked])) if checked else np.empty(0)
    total = np.zeros(len(grid))
    for steps, scores in checked:
        newest = np.searchsorted(steps, grid, side="right") - 1
        seen = newest >= 0
        total[seen] += scores[newest[seen]]
    return grid.astype(np.int64), total


def average_performance(matrix: npt.ArrayLike) -> float:
    """Compute ACC = mean over tasks j of N[S, j], S the last row (BLIP Eq. 10)."""
    return float(np.mean(score_matrix(matrix)[-1]))


def worst_performance(matrix: npt.ArrayLike) -> float:
    """Compute min over tasks j of N[S, j], which shows a forgotten task that the mean hides."""
    return float(np.min(score_matrix(matrix)[-1]))


def backward_transfer(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute BWT = 1/(T−1) · Σ over j ≠ v(S) of (N[S, j] − N[ℓ(j), j]) (BLIP Eq. 11); NaN for a single task.

    Negative if earlier tasks got worse, positive if learning later tasks improved them.
    """
    return _mean(-without_last(matrix, visits, forgetting(matrix, visits)))


def worst_backward_transfer(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute min over j ≠ v(S) of (N[S, j] − N[ℓ(j), j]); NaN for a single task."""
    changes = -without_last(matrix, visits, forgetting(matrix, visits))
    return float(np.min(changes)) if changes.size else float("nan")


def forgetting(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute forgetting per task: N[ℓ(j), j] − N[S, j], from learning the task last to the end, (T,).

    Always 0 for the task learned last. Source: Continual World.
    """
    return np.asarray(learned_scores(matrix, visits) - score_matrix(matrix, visits)[-1])


def forgetting_from_best(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute max of N[s, j] − N[S, j] per task over stages s since its first visit: forgetting from the best, (T,).

    Never below 0 and never below :func:`forgetting`. Source: Chaudhry et al. 2018, Eq. 3, there over i < T.
    """
    scores = score_matrix(matrix, visits)
    first = [list(visit_order(scores, visits)).index(task) for task in range(scores.shape[1])]
    best = [np.max(scores[start:, task]) for task, start in enumerate(first)]
    return np.asarray(np.array(best) - scores[-1])


def mean_forgetting(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute the mean of :func:`forgetting_from_best` over tasks j ≠ v(S) (Chaudhry et al. 2018, Eq. 4); NaN if T = 1.

    Without visits the mean of :func:`forgetting` would equal −BWT.
    """
    return _mean(without_last(matrix, visits, forgetting_from_best(matrix, visits)))


def worst_forgetting(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute the largest :func:`forgetting_from_best` over tasks j ≠ v(S); NaN for a single task."""
    lost = without_last(matrix, visits, forgetting_from_best(matrix, visits))
    return float(np.max(lost)) if lost.size else float("nan")


def isolated_forgetting(matrix: npt.ArrayLike) -> Array:
    """Compute F(i, j) = N[j−1, i] − N[j, i] for i < j: forgetting of task i caused by learning task j.

    Source: CORA, which divides by each method's own largest return instead of normalising by a fixed reference.

    Returns:
        (T, T): rows are scored tasks, columns learned tasks; NaN where i ≥ j.
    """
    scores = square_matrix(matrix)
    lost = np.full(scores.shape, np.nan)
    lost[:, 1:] = (scores[:-1] - scores[1:]).T
    return np.where(np.triu(np.ones(scores.shape, dtype=bool), 1), lost, np.nan)


def learned_scores(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Return N[ℓ(j), j] per task, the score just after learning it last, (T,)."""
    scores = score_matrix(matrix, visits)
    last = {task: stage for stage, task in enumerate(visit_order(scores, visits))}
    return np.array([scores[last[task], task] for task in range(scores.shape[1])])


def learned_later(matrix: npt.ArrayLike) -> float:
    """Compute the mean over tasks j ≥ 2 of N[j, j], which shows whether the agent can still learn.

    NaN for a single task, and if any N[j, j] is missing, N[1, 1] included: tasks learned simultaneously have no order.
    """
    scores = np.diagonal(square_matrix(matrix))
    return float("nan") if np.isnan(scores).any() else _mean(scores[1:])


def consolidation_loss(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Compute N before consolidation − N after, per task; positive if freezing bits lowered the score.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = same_shape("scores before consolidation", before, "scores after", after)
    return np.asarray(first - second)


def _mean(values: Array) -> float:
    """Compute the mean; NaN for an empty array, without NumPy's warning."""
    return float(np.mean(values)) if values.size else float("nan")
