"""The rows of a run's tables, and how one becomes text and text becomes one again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

Phase = Literal["start", "periodic", "before", "after"]
"""When a score was taken: before a task's first training step, during training, before or after its consolidation."""

OptionalFloat = Annotated[float | None, BeforeValidator(lambda cell: None if cell == "" else cell)]
"""A number, or None for an empty cell."""


@dataclass(frozen=True)
class ScoreRow:
    """One episode of one evaluation; a row of ``scores.csv``.

    Attributes:
        env_steps: Training steps of the whole run when the score was taken.
        stage: Tasks learned so far, counting the one being learned or just learned.
        phase: Before the task's first training step, during training, or before or after the stage's consolidation.
        task: Name of the task played.
        seed: What the episode was played with; the same at every evaluation of a run.
        score: Raw return of the whole game; the column is called ``return``.
        length_steps: Decisions.
        truncated: Whether a cap of the recipe ended it (``evaluation.max_episode_steps``, ``evaluation.periodic_share``
            or an ``atari.max_episode_frames`` below ALE's), so that its return is too low. An environment's own time
            limit, such as CartPole's 500 steps, is a game's normal end.
        normalised: 0 = random play, 1 = the reference; empty without normalisers.
        actions: How actions were chosen.
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
    """How many parameters of a layer have how many frozen bits after a stage; a row of ``bits.csv``."""

    stage: int
    layer: str
    parameter: str
    frozen_bits: int
    count: int


@dataclass(frozen=True)
class PlasticityRow:
    """How able to learn a layer was at an evaluation; a row of ``plasticity.csv``.

    Attributes:
        env_steps: Training steps of the whole run.
        stage: Tasks learned so far, counting the one being learned or just learned.
        phase: During learning, or before or after the consolidation that ends the stage.
        layer: Name of the trunk's layer.
        dormant_share: Share of units that hardly ever respond.
        effective_rank: Directions that the layer's outputs spread over.
        gradient_norm: Root mean square of the norm of log π's gradient.
        free_bits: Mean bits of a weight that may still change; empty for a method that freezes none.
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
    """How fast a stage had been learned by then, evaluations left out; a row of ``speed.csv``."""

    env_steps: int
    stage: int
    steps_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True)
class ReturnRow:
    """Training episodes of a task that finished since its last row; a row of ``returns.csv``.

    Attributes:
        env_steps: Training steps of the whole run at the end of the interval.
        stage: Tasks learned so far, counting the one being learned.
        task: Name of the task trained.
        episodes: Number of finished episodes, at least 1.
        mean_return: Their mean raw return: whole games, rewards not clipped, actions sampled from the policy.
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
    """Return a row's values as text, in the order of its columns; None is an empty cell, a truth value 0 or 1."""
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
