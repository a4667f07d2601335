"""Table of the published returns that a recipe names beside its reference, with their normalised scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

from blip_rl.core.metrics import normalise
from blip_rl.reporting.section import Table, TableRow
from blip_rl.reporting.task import Task
from blip_rl.reporting.text import number

HUMAN = "human"


def published_table(tasks: Sequence[Task]) -> Table | None:
    """Return one row for each game: the returns behind 0 and 1, and other published ones with their normalised score.

    Returns:
        None if the recipe gives no published score besides the reference.
    """
    others = [_others(task) for task in tasks]
    names = list(dict.fromkeys(name for scores in others for name in scores))
    if not names:
        return None
    columns = [("0", "random play"), ("1", "the reference"), *((name, "published return") for name in names)]
    rows = tuple(
        TableRow(task.title, task.reference_name, (_cell(task.random_score), _cell(task.reference_score), *cells))
        for task, scores in zip(tasks, others, strict=True)
        for cells in [tuple(_normalised_cell(task, scores.get(name)) for name in names)]
    )
    return Table("Published scores: returns, and below them normalised scores", tuple(columns), rows)


def _others(task: Task) -> dict[str, float]:
    """Return the published scores of a task by name, without the one that is its reference."""
    human = {} if task.human_score is None else {HUMAN: task.human_score}
    return {name: score for name, score in (human | task.other_scores).items() if name != task.reference_name}


def _cell(score: float | None) -> tuple[str, str]:
    return number(math.nan if score is None else score), ""


def _normalised_cell(task: Task, score: float | None) -> tuple[str, str]:
    if score is None or task.random_score is None or task.reference_score is None:
        return _cell(score)
    normalised = float(normalise(score, task.random_score, task.reference_score))
    return number(score), f"{normalised:.2f}"
