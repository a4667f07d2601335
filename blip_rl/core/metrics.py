"""One definition of every metric, on plain arrays.

R[i, j] is the mean raw return on task j after learning the first i tasks, N its normalised form. Row i − 1 of a matrix
here is stage i (after learning task i), column j − 1 is task j; scores from before any training (stage 0) are no row of
it. NaN marks a cell that was not measured, and a metric that needs such a cell is NaN itself, never 0 and never the
rest of its sum. Every function works on raw returns too, except those that say N.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Sum of the latest normalised scores of all tasks seen so far (BLIP Fig. 4); NaN if one of them is missing."""
    return float(np.sum(_row("latest scores", latest)))


def accumulated_curve(curves: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]) -> tuple[npt.NDArray[np.int64], Array]:
    """The accumulated score at every step where a task was scored: A(s) = Σ over tasks seen at s of the latest N.

    Source: BLIP Fig. 4.

    Args:
        curves: For each task (env_steps, N), steps rising. A task is seen from its first point on.

    Returns:
        (env_steps, A), every step once, rising.

    Raises:
        ValueError: a curve's arrays do not fit together, or its steps do not rise.
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
    """ACC = mean over tasks j of N[T, j] (BLIP Eq. 10), T the last row."""
    return float(np.mean(_square(matrix)[-1]))


def backward_transfer(matrix: npt.ArrayLike) -> float:
    """BWT = 1/(T−1) · Σ over j < T of (N[T, j] − N[j, j]) (BLIP Eq. 11); NaN for a single task, which has none.

    Below 0: earlier tasks got worse; above 0: learning later tasks made them better.
    """
    scores = _square(matrix)
    return _mean((scores[-1] - np.diagonal(scores))[:-1])


def forgetting(matrix: npt.ArrayLike) -> Array:
    """Per task: N[j, j] − N[T, j], what was lost between learning it and the end (Continual World). Shape (T,).

    Always 0 for the last task, after which nothing was learned.
    """
    scores = _square(matrix)
    return np.asarray(np.diagonal(scores) - scores[-1])


def forgetting_from_best(matrix: npt.ArrayLike) -> Array:
    """Per task: max over i ≥ j of N[i, j] − N[T, j], what was lost since the task was at its best. Shape (T,).

    Never below 0 and never below :func:`forgetting`. Source: Chaudhry et al. 2018, Eq. 3, there over i < T.
    """
    scores = _square(matrix)
    best = [np.max(scores[task:, task]) for task in range(len(scores))]
    return np.asarray(np.array(best) - scores[-1])


def mean_forgetting(matrix: npt.ArrayLike) -> float:
    """Mean over tasks j < T of :func:`forgetting_from_best` (Chaudhry et al. 2018, Eq. 4); NaN for a single task.

    The mean of the other form, :func:`forgetting`, would be −BWT and tell nothing new.
    """
    return _mean(forgetting_from_best(matrix)[:-1])


def isolated_forgetting(matrix: npt.ArrayLike) -> Array:
    """F(i, j) = N[j−1, i] − N[j, i] for i < j: what learning task j alone took from the earlier task i.

    Source: CORA, which divides by each method's own largest return instead of normalising by a fixed reference.

    Returns:
        (T, T): row of the task that is scored, column of the task that was learned; NaN where i ≥ j.
    """
    scores = _square(matrix)
    lost = np.full(scores.shape, np.nan)
    lost[:, 1:] = (scores[:-1] - scores[1:]).T
    return np.where(np.triu(np.ones(scores.shape, dtype=bool), 1), lost, np.nan)


def zero_shot_transfer(matrix: npt.ArrayLike, untrained: npt.ArrayLike | None = None) -> Array:
    """Z(i, j) = N[j, i] − N[j−1, i] for i > j: what learning task j gave to the task i, not learned yet.

    Source: CORA, normalised as in :func:`isolated_forgetting`.

    Args:
        matrix: Scores with the cells above the diagonal, which only a run that scores unseen tasks has.
        untrained: (T,) scores from before any training, N[0, i], which Z(i, 1) needs; None where not measured.

    Returns:
        (T, T): row of the task that is scored, column of the task that was learned; NaN where i ≤ j.

    Raises:
        ValueError: the shapes do not fit together.
    """
    scores = _square(matrix)
    start = np.full(len(scores), np.nan) if untrained is None else _row("untrained scores", untrained)
    _check_same("untrained scores", start, "a row of the score matrix", scores[0])
    gained = np.diff(scores, axis=0, prepend=start[None]).T
    return np.where(np.tril(np.ones(scores.shape, dtype=bool), -1), gained, np.nan)


def area_under_curve(steps: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """AUC = 1/(s₁ − s₀) · ∫ N(s) ds by the trapezoid rule from the first point to the last: the mean height.

    Source: Continual World, where the curve is the score on a task during its own training.

    Args:
        steps: (points,) rising; put the start of training in, with its score, where the curve shall begin there.
        scores: (points,) N at these steps.

    Returns:
        The area; NaN with fewer than two points, or where a score is missing.

    Raises:
        ValueError: the shapes do not fit together, or the steps do not rise.
    """
    at, height = _curve(steps, scores)
    if len(at) < 2:
        return float("nan")
    between = (height[1:] + height[:-1]) / 2
    return float(np.sum(between * np.diff(at)) / (at[-1] - at[0]))


def forward_transfer(area: npt.ArrayLike, single_area: npt.ArrayLike) -> Array:
    """Per task: (AUC − AUC_single) / (1 − AUC_single), how much faster it was learned than from scratch.

    Source: Continual World. Above 0: earlier tasks helped; at most 1 as long as N does not pass 1.

    Args:
        area: (T,) area under N over the task's own training.
        single_area: (T,) the same of a fresh run on this task alone with the same recipe.

    Returns:
        (T,); NaN where AUC_single ≥ 1, which leaves nothing to gain and would turn the sign.

    Raises:
        ValueError: the shapes differ.
    """
    own, single = _pair("areas", area, "areas of single-task runs", single_area)
    room = np.where(single < 1, 1 - single, np.nan)
    return np.asarray((own - single) / room)


def learned_scores(matrix: npt.ArrayLike) -> Array:
    """Per task: N[j, j], the score just after learning it. Shape (T,)."""
    return np.diagonal(_square(matrix)).copy()


def learned_later(matrix: npt.ArrayLike) -> float:
    """Mean over tasks j ≥ 2 of N[j, j]: whether an agent that has learned still learns.

    NaN for a single task, and where any N[j, j] is missing, N[1, 1] too: tasks learned at the same time have no order.
    """
    scores = learned_scores(matrix)
    return float("nan") if np.isnan(scores).any() else _mean(scores[1:])


def rounding_loss(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Per task: N before consolidation − N after. Positive: freezing bits cost some score.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = _pair("scores before consolidation", before, "scores after", after)
    return np.asarray(first - second)


def plasticity(learned: npt.ArrayLike, single: npt.ArrayLike) -> Array:
    """Per task: N[j, j] / N of a fresh run on this task alone: 1 learns as well as a network that knows nothing.

    Args:
        learned: (T,) scores just after learning each task, as :func:`learned_scores` gives them.
        single: (T,) scores of single-task runs with the same recipe.

    Returns:
        (T,); NaN where the single-task score is 0 or below: against an agent no better than chance no ratio means
        anything.

    Raises:
        ValueError: the shapes differ.
    """
    own, fresh = _pair("scores just after learning", learned, "scores of single-task runs", single)
    return np.asarray(own / np.where(fresh > 0, fresh, np.nan))


def _mean(values: Array) -> float:
    """Mean, and NaN of nothing without numpy's warning."""
    return float(np.mean(values)) if values.size else float("nan")


def _square(matrix: npt.ArrayLike) -> Array:
    rule = "expected one row and one column for each task learned"
    try:
        scores = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"score matrix that is no rectangle of numbers: {rule}") from error
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.size == 0:
        raise ValueError(f"score matrix of shape {scores.shape}: {rule}")
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
