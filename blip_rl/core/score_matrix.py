"""Checks of score matrices, rows and curves, for the metrics of continual learning.

Each raises ValueError with the shape and the rule. :mod:`blip_rl.core.metrics` explains matrices and visits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Visits = Sequence[int] | None
"""Index of the task that each stage learns, (S,); −1 for one without a column; None: stage j learns task j."""


def score_matrix(matrix: npt.ArrayLike, visits: Visits = None) -> Array:
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


def visit_order(scores: Array, visits: Visits) -> Sequence[int]:
    """Return the task that each stage learns."""
    return range(len(square_matrix(scores))) if visits is None else visits


def without_last(matrix: npt.ArrayLike, visits: Visits, values: Array) -> Array:
    """Leave out the task that the last stage learned, if it has a column."""
    last = visit_order(score_matrix(matrix), visits)[-1]
    return values if last < 0 else np.delete(values, last)


def select_columns(matrix: npt.ArrayLike, visits: Sequence[int], tasks: Sequence[int]) -> tuple[Array, list[int]]:
    """Return the score matrix of some tasks, and its visits, −1 for the stages of the other tasks."""
    scores = np.asarray(matrix, dtype=np.float64)[:, list(tasks)]
    return scores, [tasks.index(task) if task in tasks else -1 for task in visits]


def square_matrix(matrix: npt.ArrayLike) -> Array:
    """Check a score matrix of tasks that are learned once each, in the order of its columns."""
    scores = score_matrix(matrix)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"score matrix of shape {scores.shape}: expected one row and one column for each task learned")
    return scores


def checked_row(name: str, values: npt.ArrayLike) -> Array:
    """Check one number for each task, (T,)."""
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError(f"{name} of shape {row.shape}: expected one number for each task")
    return row


def same_shape(name: str, values: npt.ArrayLike, other_name: str, other: npt.ArrayLike) -> tuple[Array, Array]:
    """Check two arrays of the same shape."""
    first, second = np.asarray(values, dtype=np.float64), np.asarray(other, dtype=np.float64)
    check_same(name, first, other_name, second)
    return first, second


def check_same(name: str, values: Array, other_name: str, other: Array) -> None:
    """Check that two arrays have the same shape."""
    if values.shape != other.shape:
        raise ValueError(f"{name} of shape {values.shape}, {other_name} of shape {other.shape}: expected the same")


def checked_curve(steps: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Array, Array]:
    """Check a curve: (points,) increasing steps and (points,) scores."""
    at, height = same_shape("steps of a curve", steps, "its scores", scores)
    if at.ndim != 1 or not np.all(np.diff(at) > 0):
        raise ValueError(f"curve with steps {at.tolist()}: expected a list of steps, each above the one before")
    return at, height
