"""Metrics of transfer: how learning other tasks affects learning a task.

Notation as in :mod:`blip_rl.core.metrics`. ``single`` is a run that learns each task from
scratch, with the same recipe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blip_rl.core.score_matrix import Array, check_same, checked_curve, checked_row, same_shape, square_matrix


def zero_shot_transfer(matrix: npt.ArrayLike, untrained: npt.ArrayLike | None = None) -> Array:
    """Compute Z(i, j) = N[j, i] − N[j−1, i] for i > j: improvement on task i, not learned yet, by learning task j.

    Source: CORA, normalised as in :func:`isolated_forgetting`.

    Args:
        matrix: Scores, including the cells above the diagonal, which need evaluation of unseen tasks.
        untrained: (T,) scores before any training, N[0, i], for Z(i, 1); None if not measured.

    Returns:
        (T, T): rows are scored tasks, columns learned tasks; NaN where i ≤ j.

    Raises:
        ValueError: the shapes do not fit together.
    """
    scores = square_matrix(matrix)
    start = np.full(len(scores), np.nan) if untrained is None else checked_row("untrained scores", untrained)
    check_same("untrained scores", start, "a row of the score matrix", scores[0])
    gained = np.diff(scores, axis=0, prepend=start[None]).T
    return np.where(np.tril(np.ones(scores.shape, dtype=bool), -1), gained, np.nan)


def area_under_curve(steps: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Compute AUC = 1/(s₁ − s₀) · ∫ N(s) ds from the first to the last point, by the trapezoid rule.

    Source: Continual World, where the curve is the score on a task during its own training.

    Args:
        steps: (points,) increasing; include the start of training, with its score, to integrate from there.
        scores: (points,) N at these steps.

    Returns:
        The area; NaN with fewer than two points or if a score is missing.

    Raises:
        ValueError: the shapes differ, or the steps do not increase.
    """
    at, height = checked_curve(steps, scores)
    if len(at) < 2:
        return float("nan")
    between = (height[1:] + height[:-1]) / 2
    return float(np.sum(between * np.diff(at)) / (at[-1] - at[0]))


def forward_transfer(area: npt.ArrayLike, single_area: npt.ArrayLike) -> Array:
    """Compute forward transfer per task: (AUC − AUC_single) / (1 − AUC_single).

    Source: Continual World. Positive if earlier tasks sped up learning; at most 1 while N ≤ 1.

    Args:
        area: (T,) area under N over the task's own training.
        single_area: (T,) the same for a run on this task alone, from scratch, with the same recipe.

    Returns:
        (T,); NaN where AUC_single ≥ 1, where the denominator is 0 or negative.

    Raises:
        ValueError: the shapes differ.
    """
    own, single = same_shape("areas", area, "areas of single-task runs", single_area)
    room = np.where(single < 1, 1 - single, np.nan)
    return np.asarray((own - single) / room)


def plasticity(learned: npt.ArrayLike, single: npt.ArrayLike) -> Array:
    """Compute plasticity per task: N[j, j] / N of a run on this task alone; 1 learns as well as a new network.

    Args:
        learned: (T,) scores just after learning each task, from :func:`learned_scores`.
        single: (T,) scores of single-task runs with the same recipe.

    Returns:
        (T,); NaN where the single-task score is 0 or below, no better than random play.

    Raises:
        ValueError: the shapes differ.
    """
    own, fresh = same_shape("scores just after learning", learned, "scores of single-task runs", single)
    return np.asarray(own / np.where(fresh > 0, fresh, np.nan))
