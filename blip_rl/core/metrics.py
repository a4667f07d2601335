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

Array = npt.NDArray[np.float64]
Visits = Sequence[int] | None
"""Index of the task that each stage learns, (S,); −1 for one without a column; None: stage j learns task j."""


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
    return float(np.sum(_row("latest scores", latest)))


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
    checked = [_curve(steps, scores) for steps, scores in curves]
    grid = np.unique(np.concatenate([steps for steps, _ in checked])) if checked else np.empty(0)
    total = np.zeros(len(grid))
    for steps, scores in checked:
        newest = np.searchsorted(steps, grid, side="right") - 1
        seen = newest >= 0
        total[seen] += scores[newest[seen]]
    return grid.astype(np.int64), total


def average_performance(matrix: npt.ArrayLike) -> float:
    """Compute ACC = mean over tasks j of N[S, j], S the last row (BLIP Eq. 10)."""
    return float(np.mean(_matrix(matrix)[-1]))


def worst_performance(matrix: npt.ArrayLike) -> float:
    """Compute min over tasks j of N[S, j]: the mean hides a task that was lost."""
    return float(np.min(_matrix(matrix)[-1]))


def backward_transfer(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute BWT = 1/(T−1) · Σ over j ≠ v(S) of (N[S, j] − N[ℓ(j), j]) (BLIP Eq. 11); NaN for a single task.

    Negative if earlier tasks got worse, positive if learning later tasks improved them.
    """
    return _mean(-_earlier(matrix, visits, forgetting(matrix, visits)))


def worst_backward_transfer(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute min over j ≠ v(S) of (N[S, j] − N[ℓ(j), j]); NaN for a single task."""
    changes = -_earlier(matrix, visits, forgetting(matrix, visits))
    return float(np.min(changes)) if changes.size else float("nan")


def forgetting(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute forgetting per task: N[ℓ(j), j] − N[S, j], from learning the task last to the end, (T,).

    Always 0 for the task learned last. Source: Continual World.
    """
    return np.asarray(learned_scores(matrix, visits) - _matrix(matrix, visits)[-1])


def forgetting_from_best(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute max of N[s, j] − N[S, j] per task over stages s since its first visit: forgetting from the best, (T,).

    Never below 0 and never below :func:`forgetting`. Source: Chaudhry et al. 2018, Eq. 3, there over i < T.
    """
    scores = _matrix(matrix, visits)
    first = [list(_order(scores, visits)).index(task) for task in range(scores.shape[1])]
    best = [np.max(scores[start:, task]) for task, start in enumerate(first)]
    return np.asarray(np.array(best) - scores[-1])


def mean_forgetting(matrix: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute the mean of :func:`forgetting_from_best` over tasks j ≠ v(S) (Chaudhry et al. 2018, Eq. 4); NaN if T = 1.

    Without visits the mean of :func:`forgetting` would equal −BWT.
    """
    return _mean(_earlier(matrix, visits, forgetting_from_best(matrix, visits)))


def forgetting_between_visits(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Compute what was forgotten of a task between two visits: N[p, j] − N[s−1, j], with j = v(s).

    p is the visit to task j before stage s. Learning the task anew starts with this loss.

    Returns:
        (S,); NaN for first visits.
    """
    scores = _matrix(matrix, visits)
    lost, last = np.full(len(scores), np.nan), dict[int, int]()
    for stage, task in enumerate(_order(scores, visits)):
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
    at, height = _curve(steps, scores)
    reached = at[height >= earlier]
    return float(reached[0]) if reached.size else float("nan")


def stability_gap(learned: float, during: npt.ArrayLike) -> float:
    """Compute how far a task falls while the next one is learned: N just after learning it − min of ``during``.

    Source: De Lange et al. 2023 (arXiv 2205.13452), who name the temporary drop at the start of a task.

    Args:
        learned: Score just after learning the task.
        during: Scores of the task at the evaluations within the next stage; may be empty.

    Returns:
        The gap, at least 0 for a task that never improves; NaN without evaluations.
    """
    scores = _row("scores during the next task", during)
    return float(learned - np.min(scores)) if scores.size else float("nan")


def last_cycle_sum(returns: npt.ArrayLike, visits: Visits = None) -> float:
    """Compute Σ over tasks of the mean raw training return during each task's last visit.

    Source: the score of the sequence ``carmack8``, where tasks are not normalised.

    Args:
        returns: (S,) mean raw return of the training episodes of each stage; NaN if none ended.
        visits: Task of each stage.
    """
    each = _row("training returns", returns)
    last = dict(zip(visits or range(len(each)), each.tolist(), strict=True))
    return float(sum(last.values()))


def isolated_forgetting(matrix: npt.ArrayLike) -> Array:
    """Compute F(i, j) = N[j−1, i] − N[j, i] for i < j: forgetting of task i caused by learning task j.

    Source: CORA, which divides by each method's own largest return instead of normalising by a fixed reference.

    Returns:
        (T, T): rows are scored tasks, columns learned tasks; NaN where i ≥ j.
    """
    scores = _square(matrix)
    lost = np.full(scores.shape, np.nan)
    lost[:, 1:] = (scores[:-1] - scores[1:]).T
    return np.where(np.triu(np.ones(scores.shape, dtype=bool), 1), lost, np.nan)


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
    scores = _square(matrix)
    start = np.full(len(scores), np.nan) if untrained is None else _row("untrained scores", untrained)
    _check_same("untrained scores", start, "a row of the score matrix", scores[0])
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
    at, height = _curve(steps, scores)
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
    own, single = _pair("areas", area, "areas of single-task runs", single_area)
    room = np.where(single < 1, 1 - single, np.nan)
    return np.asarray((own - single) / room)


def learned_scores(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Return N[ℓ(j), j] per task, the score just after learning it last, (T,)."""
    scores = _matrix(matrix, visits)
    last = {task: stage for stage, task in enumerate(_order(scores, visits))}
    return np.array([scores[last[task], task] for task in range(scores.shape[1])])


def learned_later(matrix: npt.ArrayLike) -> float:
    """Compute the mean over tasks j ≥ 2 of N[j, j], which shows whether the agent can still learn.

    NaN for a single task, and if any N[j, j] is missing, N[1, 1] included: tasks learned simultaneously have no order.
    """
    scores = np.diagonal(_square(matrix))
    return float("nan") if np.isnan(scores).any() else _mean(scores[1:])


def rounding_loss(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Compute N before consolidation − N after, per task; positive if freezing bits lowered the score.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = _pair("scores before consolidation", before, "scores after", after)
    return np.asarray(first - second)


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
    own, fresh = _pair("scores just after learning", learned, "scores of single-task runs", single)
    return np.asarray(own / np.where(fresh > 0, fresh, np.nan))


def _mean(values: Array) -> float:
    """Compute the mean; NaN for an empty array, without NumPy's warning."""
    return float(np.mean(values)) if values.size else float("nan")


def _matrix(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
    """Check a score matrix, (S, T): square without visits."""
    rule = "expected one row for each stage and one column for each task"
    try:
        scores = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"score matrix that is no rectangle of numbers: {rule}") from error
    if scores.ndim != 2 or scores.size == 0 or scores.shape[0] < scores.shape[1]:
        raise ValueError(f"score matrix of shape {scores.shape}: {rule}")
    if visits is not None and (len(visits) != len(scores) or {*visits} - {-1} != {*range(scores.shape[1])}):
        raise ValueError(f"visits {list(visits)} with a score matrix of shape {scores.shape}: {rule}, each visited")
    return scores


def _order(scores: Array, visits: Visits) -> Sequence[int]:
    """Return the task that each stage learns."""
    return range(len(_square(scores))) if visits is None else visits


def _earlier(matrix: npt.ArrayLike, visits: Visits, values: Array) -> Array:
    """Leave out the task that the last stage learned, if it has a column."""
    last = _order(_matrix(matrix), visits)[-1]
    return values if last < 0 else np.delete(values, last)


def _square(matrix: npt.ArrayLike) -> Array:
    """Check a score matrix of tasks that are learned once each, in the order of its columns."""
    scores = _matrix(matrix)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"score matrix of shape {scores.shape}: expected one row and one column for each task learned")
    return scores


def _row(name: str, values: npt.ArrayLike) -> Array:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError(f"{name} of shape {row.shape}: expected one number for each task")
    return row


def _pair(name: str, values: npt.ArrayLike, other_name: str, other: npt.ArrayLike) -> tuple[Array, Array]:
    first, second = np.asarray(values, dtype=np.float64), np.asarray(other, dtype=np.float64)
    _check_same(name, first, other_name, second)
    return first, second


def _check_same(name: str, values: Array, other_name: str, other: Array) -> None:
    if values.shape != other.shape:
        raise ValueError(f"{name} of shape {values.shape}, {other_name} of shape {other.shape}: expected the same")


def _curve(steps: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Array, Array]:
    at, height = _pair("steps of a curve", steps, "its scores", scores)
    if at.ndim != 1 or not np.all(np.diff(at) > 0):
        raise ValueError(f"curve with steps {at.tolist()}: expected a list of steps, each above the one before")
    return at, height
