"""The tables of a run: one row type for each, used to write and to read it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

Phase = Literal["start", "periodic", "before", "after"]
"""When a score was measured: before a task's first training step, during training, before or after consolidation."""

OptionalFloat = Annotated[float | None, BeforeValidator(lambda cell: None if cell == "" else cell)]
"""A number, or None for an empty cell."""


@dataclass(frozen=True)
class ScoreRow:
    """One evaluation episode; a row of ``scores.csv``.

    Attributes:
        env_steps: Training steps of the whole run at the evaluation; a step is one decision of one environment.
        stage: Number of tasks learned so far, including the current one.
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

    env_steps: int
    stage: int
    phase: Phase
    task: str
    seed: int
    score: Annotated[float, Field(alias="return")]
    length_steps: int
    truncated: bool
    normalised: OptionalFloat
    actions: str


@dataclass(frozen=True)
class BitsRow:
    """Number of weights with a given number of frozen bits; a row of ``bits.csv``.

    Attributes:
        stage: Number of the stage whose consolidation froze them, counted from 1.
        layer: Name of the trunk layer.
        parameter: ``weight`` or ``bias``.
        frozen_bits: Frozen bits per weight.
        count: Number of weights of this parameter that have as many.
    """

    stage: int
    layer: str
    parameter: str
    frozen_bits: int
    count: int


@dataclass(frozen=True)
class PlasticityRow:
    """Plasticity of one layer at an evaluation; a row of ``plasticity.csv``. See :mod:`blip_rl.core.plasticity`.

    Attributes:
        env_steps: Training steps of the whole run.
        stage: Number of tasks learned so far, including the current one.
        phase: When in the stage: ``periodic``, ``before`` or ``after``.
        layer: Name of the trunk layer.
        dormant_share: Share of dormant units, 0 to 1.
        effective_rank: Effective rank of the layer's outputs, from 1.
        gradient_norm: Root mean square of the norm of ∇ log π.
        free_bits: Mean bits of a weight that are not frozen; None for a method that freezes none.
    """

    env_steps: int
    stage: int
    phase: Phase
    layer: str
    dormant_share: float
    effective_rank: float
    gradient_norm: float
    free_bits: OptionalFloat


@dataclass(frozen=True)
class SpeedRow:
    """Training speed of a stage so far; a row of ``speed.csv``.

    Attributes:
        env_steps: Training steps of the whole run.
        stage: Number of the stage, counted from 1.
        steps_per_second: Mean since the process started the stage, without evaluations.
        peak_memory_mb: Peak memory of the process, 10⁶ bytes.
    """

    env_steps: int
    stage: int
    steps_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True)
class ReturnRow:
    """Mean return of a task's training episodes finished since its last row; a row of ``returns.csv``.

    Attributes:
        env_steps: Training steps of the whole run at the end of the interval.
        stage: Number of tasks learned so far, including the current one.
        task: Name of the trained task.
        episodes: Number of finished episodes, at least 1.
        mean_return: Mean raw return of whole games, with unclipped rewards and sampled actions.
    """

    env_steps: int
    stage: int
    task: str
    episodes: int
    mean_return: float


Row = ScoreRow | BitsRow | PlasticityRow | SpeedRow | ReturnRow

_SCORE_ROW = TypeAdapter(ScoreRow)
_LONGEST_QUOTE = 80  # characters of a wrong value in a message


def columns(row_type: type[Row]) -> list[str]:
    """Return the column names of a table, in order."""
    return [{"score": "return"}.get(field.name, field.name) for field in fields(row_type)]


def cells(row: Row) -> list[str]:
    """Return a row's values as text, in the order of its columns; None becomes an empty cell, a bool 0 or 1."""
    return [_cell(value) for value in vars(row).values()]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def score_row(texts: dict[str, str]) -> ScoreRow:
    """Read a row of ``scores.csv``.

    Args:
        texts: Column → text.

    Raises:
        ValueError: A column is missing, or its text is not a value of that column.
    """
    try:
        return _SCORE_ROW.validate_python(texts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        value = "" if first["type"] == "missing" else f" = {str(first['input'])[:_LONGEST_QUOTE]!r}"
        raise ValueError(f"{first['loc'][0]}{value}: {first['msg']}") from None


def episode_key(row: ScoreRow) -> tuple[int, str, str, int, str]:
    """Return what identifies an episode within a run: two rows with the same key are scores of the same episode."""
    return row.stage, row.phase, row.task, row.seed, row.actions
