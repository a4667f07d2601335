"""Metrics of single visits to a task: forgetting since the previous visit, steps to relearn, stability gap.

Notation as in :mod:`blip_rl.core.metrics`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blip_rl.core.score_matrix import Array, Visits, checked_curve, checked_row, score_matrix, visit_order


def forgetting_between_visits(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute what was forgotten of a task between two visits: N[p, j] − N[s−1, j], with j = v(s).

    p is the visit to task j before stage s. Learning the task anew starts with this loss.

    Returns:
        (S,); NaN for first visits.
    """
    scores = score_matrix(matrix, visits)
    lost, last = np.full(len(scores), np.nan), dict[int, int]()
    for stage, task in enumerate(visit_order(scores, visits)):
        if task in last and task >= 0:
            lost[stage] = scores[last[task], task] - scores[stage - 1, task]
        last[task] = stage
    return lost


def relearning_steps(steps: npt.ArrayLike, scores: npt.ArrayLike, earlier: float) -> float:
    """Compute the training steps of a visit until the score of the earlier visit is reached again.

    Args:
        steps: (points,) steps since the start of the visit, increasing.
        scores: (points,) scores at these steps.
        earlier: Score just after the earlier visit.

    Returns:
        The first of ``steps`` whose score is at least ``earlier``; NaN if there is none.

    Raises:
        ValueError: the shapes differ, or the steps do not increase.
    """
    at, height = checked_curve(steps, scores)
    reached = at[height >= earlier]
    return float(reached[0]) if reached.size else float("nan")


def stability_gap(learned: float, during: npt.ArrayLike) -> float:
    """Compute how far a task falls while the next one is learned: N just after learning it − min of ``during``.

    Source: De Lange et al. 2023 (arXiv 2205.13452), who named the temporary drop at the start of a new task.

    Args:
        learned: Score just after learning the task.
        during: Scores of the task at the evaluations within the next stage; may be empty.

    Returns:
        The gap, at least 0 for a task that never improves; NaN without evaluations.
    """
    scores = checked_row("scores during the next task", during)
    return float(learned - np.min(scores)) if scores.size else float("nan")


def last_cycle_sum(returns: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute Σ over tasks of the mean raw training return during each task's last visit.

    Source: the score of the sequence ``carmack8``, which adds raw returns of different scales.

    Args:
        returns: (S,) mean raw return of the training episodes of each stage; NaN if none ended.
        visits: Task of each stage.

    Returns:
        The sum; NaN if no training episode ended in a last visit.
    """
    each = checked_row("training returns", returns)
    last = dict(zip(visits or range(len(each)), each.tolist(), strict=True))
    return float(sum(last.values()))
