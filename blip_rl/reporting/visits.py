"""The order in which a run visits its tasks, from its ``config.toml``, which may come from an untrusted source.

A stage is one visit to a task. Stages and visits are counted from 1, tasks from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from blip_rl.untrusted.files import MOST_TASKS


class NamedTask(BaseModel, frozen=True):
    """One task of a recipe; other keys are ignored.

    Attributes:
        name: Key in the run's tables.
    """

    name: str


class VisitedTasks(BaseModel):
    """Tasks and the order of their visits; other keys are ignored. Runs of early versions visit each task once.

    Attributes:
        tasks: In the order of their first visits.
        order: Names of the tasks in the order of their visits; empty: each task once.
        cycles: How often the order is repeated.
    """

    tasks: tuple[NamedTask, ...]
    order: Annotated[tuple[str, ...], Field(max_length=MOST_TASKS)] = ()
    cycles: Annotated[int, Field(strict=True, ge=1, le=MOST_TASKS)] = 1

    @model_validator(mode="after")
    def _visits_fit(self) -> Self:
        if self.order and tuple(dict.fromkeys(self.order)) != self.names:
            raise ValueError("order: expected every task at least once, first in the order of the tasks")
        each = len(self.order or self.tasks)
        if each * self.cycles > MOST_TASKS:
            raise ValueError(f"{each} visits × cycles = {self.cycles}: expected at most {MOST_TASKS} in all")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def visits(self) -> tuple[int, ...]:
        """Index of the task that each stage learns, (stages,)."""
        once = [self.names.index(name) for name in self.order] or range(len(self.tasks))
        return (*once,) * self.cycles


def come_back(visits: Sequence[int]) -> bool:
    """Return whether a task is visited more than once."""
    return len(set(visits)) < len(visits)


def visit_label(visits: Sequence[int], stage: int) -> str:
    """Return `` (visit 2)`` for a stage of a sequence whose tasks come back, else an empty string."""
    return f" (visit {visits[:stage].count(visits[stage - 1])})" if come_back(visits) else ""


def first_stage(visits: Sequence[int], task: int) -> int:
    """Return the number of the stage that visits a task first."""
    return visits.index(task) + 1


def cycle_length(visits: Sequence[int]) -> int:
    """Return the number of visits after which the order repeats; all of them if it never does."""
    total = len(visits)
    lengths = (n for n in range(1, total) if total % n == 0 and tuple(visits[:n]) * (total // n) == tuple(visits))
    return next(lengths, total)
