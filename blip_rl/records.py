"""The tables of a run: one row type for each, used to write and to read it.

The row types are the only definition of the tables' columns, types and bounds. Rows that are written are not validated;
rows that are read are untrusted input and validated by pydantic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from blip_rl.errors import UserError, first_problem
from blip_rl.untrusted.files import MOST_TASKS
from blip_rl.untrusted.tables import table_rows

MAX_STEPS = 10**15
MAX_BITS = 22
"""Upper limit on the bits of a weight: the grid that float32 represents exactly; above every recipe's limit."""
_LARGEST = 1e15  # above every plausible measurement; integers up to here are exact in float64

Phase = Literal["start", "periodic", "before", "after"]
"""When a score was measured: before a task's first training step, during training, before or after consolidation."""

Actions = Literal["greedy", "stochastic"]
"""How actions are chosen: the most probable one, or sampled from the policy."""


def _plausible(value: float) -> float:
    if abs(value) > _LARGEST:  # NaN, which is not, is a value that was not measured
        raise ValueError(f"expected a number from -{_LARGEST:g} to {_LARGEST:g}")
    return value


Steps = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Stage = Annotated[int, Field(ge=0, le=MOST_TASKS)]
FrozenBits = Annotated[int, Field(ge=0, le=MAX_BITS)]
Count = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Measurement = Annotated[float, AfterValidator(_plausible)]
Name = Annotated[str, AfterValidator(sys.intern)]
"""A layer or task. A table has few names and many rows: equal names share one object."""
EmptyIsNone = BeforeValidator(lambda cell: None if cell == "" else cell)
"""Reads an empty cell as None."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One evaluation episode; a row of ``scores.csv``.

    Attributes:
        env_steps: Training steps of the whole run at the evaluation; a step is one decision of one environment.
        stage: Number of the stage, counted from 1: of the visit to a task.
        phase: When in the stage: ``start``, ``periodic``, ``before`` or ``after``.
        task: Name of the evaluated task.
        seed: Seed of the episode, as in ``evaluation.seed`` plus its number; the same at every evaluation of a run.
        score: Raw, undiscounted return of the episode; the column is named ``return``.
        length_steps: Length in decisions.
        truncated: Whether a limit of the recipe ended it (``evaluation.max_episode_steps``,
            ``evaluation.periodic_share`` or an ``atari.max_episode_frames`` below ALE's), so that its return is biased.
            An environment's own time limit, such as CartPole's 500 steps, does not count.
        normalised: Score with random play = 0 and the reference = 1; None if the recipe gives no normalisers.
        actions: ``greedy`` or ``stochastic``.
    """

    env_steps: Steps
    stage: Stage
    phase: Phase
    task: Name
    seed: int
    score: Annotated[float, Field(alias="return")]
    length_steps: int
    truncated: bool
    normalised: Annotated[float | None, EmptyIsNone]
    actions: Actions


@dataclass(frozen=True, slots=True)
class BitsRow:
    """Number of weights with a given number of frozen bits; a row of ``bits.csv``.

    Attributes:
        stage: Number of the stage whose consolidation froze them, counted from 1.
        layer: Name of the trunk layer.
        parameter: ``weight`` or ``bias``.
        frozen_bits: Frozen bits per weight.
        count: Number of weights of this parameter that have as many.
    """

    stage: Annotated[Stage, Field(ge=1)]
    layer: Name
    parameter: Name
    frozen_bits: FrozenBits
    count: Count


@dataclass(frozen=True, slots=True)
class PlasticityRow:
    """Plasticity of one layer at an evaluation; a row of ``plasticity.csv``. See :mod:`blip_rl.core.plasticity`.

    Attributes:
        env_steps: Training steps of the whole run.
        stage: Number of the stage, counted from 1: of the visit to a task.
        phase: When in the stage: ``periodic``, ``before`` or ``after``.
        layer: Name of the trunk layer.
        dormant_share: Share of dormant units, 0 to 1.
        effective_rank: Effective rank of the layer's outputs, from 1.
        gradient_norm: Root mean square of the norm of ∇ log π.
        free_bits: Mean bits of a weight that are not frozen; None for a method that freezes none.
    """

    env_steps: Steps
    stage: Stage
    phase: Phase
    layer: Name
    dormant_share: Measurement
    effective_rank: Measurement
    gradient_norm: Measurement
    free_bits: Annotated[Measurement | None, EmptyIsNone]


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Training speed of a stage so far; a row of ``speed.csv``.

    Attributes:
        env_steps: Training steps of the whole run.
        stage: Number of the stage, counted from 1.
        steps_per_second: Mean since the process started the stage, without evaluations.
        peak_memory_mb: Peak memory of the process, 10⁶ bytes.
    """

    env_steps: Steps
    stage: Stage
    steps_per_second: Measurement
    peak_memory_mb: Measurement


@dataclass(frozen=True, slots=True)
class ReturnRow:
    """Mean return of a task's training episodes finished since its last row; a row of ``returns.csv``.

    Attributes:
        env_steps: Training steps of the whole run at the end of the interval.
        stage: Number of the stage, counted from 1: of the visit to a task.
        task: Name of the trained task.
        episodes: Number of finished episodes, at least 1.
        mean_return: Mean raw return of whole games, with unclipped rewards and sampled actions.
    """

    env_steps: Steps
    stage: Stage
    task: Name
    episodes: Count
    mean_return: Measurement


Row = ScoreRow | BitsRow | PlasticityRow | SpeedRow | ReturnRow
AnyRow = TypeVar("AnyRow", bound=Row)


def columns(row_type: type[AnyRow]) -> list[str]:
    """Return the column names of a table, in order."""
    return [{"score": "return"}.get(field.name, field.name) for field in fields(row_type)]


def cells(row: Row) -> list[str]:
    """Return a row's values as text, in the order of its columns; None becomes an empty cell, a bool 0 or 1."""
    return [_cell(getattr(row, field.name)) for field in fields(row)]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def read_rows(
    path: Path, row_type: type[AnyRow], *, errors: str = "strict", strict: bool = False
) -> Iterator[tuple[int, AnyRow | ValueError]]:
    """Read a table row by row.

    Args:
        path: The CSV file.
        row_type: Type of its rows.
        errors: Error handling of :meth:`bytes.decode` for bytes that are not UTF-8.
        strict: Whether malformed quoting is an error.

    Yields:
        (line number, row); instead of a damaged row, for example a truncated one, an error that names what is wrong.

    Raises:
        UserError: As :func:`~blip_rl.untrusted.tables.table_rows`, or the table lacks a column.
    """
    names, rows = table_rows(path, errors=errors, strict=strict)
    if missing := [name for name in columns(row_type) if name not in names]:
        raise UserError(f"'{path}' has no column {', '.join(missing)}")
    adapter = TypeAdapter(row_type)
    for line, texts in rows:
        yield line, _row(adapter, texts, len(names))


def _row(adapter: TypeAdapter[AnyRow], texts: dict[Any, Any], width: int) -> AnyRow | ValueError:
    """Return a row, or why its texts are none; surplus and missing cells are marked as in :class:`csv.DictReader`."""
    if None in texts:
        return ValueError(f"{width + len(texts[None])} cells: expected {width}")
    if None in texts.values():
        return ValueError(f"{sum(text is not None for text in texts.values())} of {width} cells: an incomplete row")
    try:
        return adapter.validate_python(texts)
    except ValidationError as error:
        return ValueError(first_problem(error))


def mean_returns(rows: Iterable[ReturnRow]) -> dict[tuple[int, str], float]:
    """Return (stage, task) → mean raw return of the training episodes that ended in the stage."""
    sums: dict[tuple[int, str], tuple[int, float]] = {}
    for row in rows:
        episodes, total = sums.get((row.stage, row.task), (0, 0.0))
        sums[row.stage, row.task] = episodes + row.episodes, total + row.episodes * row.mean_return
    return {key: total / episodes for key, (episodes, total) in sums.items()}


def episode_key(row: ScoreRow) -> tuple[int, str, str, int, str]:
    """Return what identifies an episode within a run: two rows with the same key are scores of the same episode."""
    return row.stage, row.phase, row.task, row.seed, row.actions
