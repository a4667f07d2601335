"""The tasks of a sequence and the order in which they are learned: each once, in a given order, or in cycles.

A stage is one visit to a task. Stages and visits are counted from 1; a task's index in the recipe from 0.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from blip_rl.setting_types import Fraction, ReferenceName, Settings, Steps, TaskName, reject_bool
from blip_rl.untrusted.files import MOST_TASKS
from blip_rl.wrapper_config import Wrappers

Cycles = Annotated[int, Field(ge=1, le=MOST_TASKS), BeforeValidator(reject_bool)]


class MinatarConfig(Settings):
    """How MinAtar's games are played. Defaults: those of the package and of Young and Tian 2019 (arXiv 1903.03176)."""

    sticky_action_probability: Fraction = 0.1
    """Probability that a step repeats the action before it instead of taking the agent's."""
    difficulty_ramping: bool = True
    """Whether Asterix, Seaquest and Space Invaders become faster the longer a game lasts."""


class TaskConfig(Settings):
    """One task of a sequence: a game, its training steps, and the scores that normalise its returns."""

    name: TaskName
    """Name of the task in tables, files and options."""
    game: str
    """ALE ROM name (``kung_fu_master``) or Gymnasium id (``CartPole-v1``, ``MinAtar/Breakout-v0``); other unambiguous
    spellings are accepted."""
    title: str = ""
    """Name in reports and videos; empty: the name."""
    steps: Steps = 10_000_000
    """Training steps of each visit: decisions, summed over environments; rounded up to whole rollouts. ``--steps``
    replaces it."""
    random_score: float | None = None
    """Mean return of a random policy: normalised score 0."""
    reference_score: float | None = None
    """Return that is normalised score 1."""
    reference_name: ReferenceName = ""
    """Name of the reference in texts, for example ``human``."""
    human_score: float | None = None
    """Published return of a human, shown in reports."""
    other_scores: dict[ReferenceName, float] = Field(default_factory=dict)
    """Further published returns by their names, shown in reports; they do not change normalised scores."""
    observation_mix_seed: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] | None = None
    """Multiply vector observations by a random orthogonal matrix with this seed; none: unchanged."""
    mode: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] | None = None
    """Mode of an Atari game (Freeway has 0 to 7); none: the game's default. Tasks with a mode are played slower, in
    Python."""
    difficulty: Annotated[int, Field(ge=0), BeforeValidator(reject_bool)] | None = None
    """Difficulty of an Atari game; none: the game's default."""
    wrappers: Wrappers = ()
    """Gymnasium wrappers, the innermost first: ``"gymnasium.wrappers:FlattenObservation"``, or with arguments
    ``{ wrapper = "gymnasium.wrappers:TimeLimit", max_episode_steps = 200 }``. Not for games of Atari and MinAtar. A
    wrapper of another package is imported only if the user trusts it (``--trust``)."""
    minatar: MinatarConfig | None = None
    """Settings of a MinAtar game; none: those of the sequence."""

    @property
    def flavour(self) -> tuple[int | None, int | None] | None:
        """Mode and difficulty of the game; None if the task sets neither."""
        return None if self.mode is None and self.difficulty is None else (self.mode, self.difficulty)

    @property
    def has_normalisers(self) -> bool:
        """Whether returns can be normalised: the recipe gives a random and a reference score."""
        return self.random_score is not None and self.reference_score is not None

    @model_validator(mode="after")
    def _scores_differ(self) -> Self:
        if self.random_score is not None and self.random_score == self.reference_score:
            raise ValueError(
                f"random_score = reference_score = {self.random_score}: expected two different scores, because "
                "returns are normalised by their difference"
            )
        return self


def _names_differ(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    """Reject two tasks of the same name: the name identifies the task's head and scores."""
    names = [task.name for task in tasks]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"two tasks are named {twice[0]!r}: expected every task to have its own name")
    return tasks


Tasks = Annotated[tuple[TaskConfig, ...], Field(min_length=1), AfterValidator(_names_differ)]


class Schedule(Settings):
    """Tasks and the order of their visits. A task that is visited again continues with its head."""

    tasks: Tasks
    """Tasks, in the order of their first visits."""
    order: tuple[TaskName, ...] = ()
    """Names of the tasks in the order of their visits, in which a task may come back; empty: each task once."""
    cycles: Cycles = 1
    """How often the order is repeated."""

    @model_validator(mode="after")
    def _order_fits_tasks(self) -> Self:
        names = [task.name for task in self.tasks]
        for name in self.order:
            if name not in names:
                raise ValueError(f"order names {name!r}: expected the names of this recipe's tasks: {', '.join(names)}")
        if self.order and (missing := [name for name in names if name not in self.order]):
            raise ValueError(f"order leaves out {missing[0]!r}: expected every task at least once (or remove the task)")
        if self.order and (first := list(dict.fromkeys(self.order))) != names:
            raise ValueError(
                f"order visits the tasks first as {', '.join(first)}, but the recipe lists them as {', '.join(names)}: "
                "expected the same order (reorder the tasks)"
            )
        if self.stages > MOST_TASKS:
            each = self.stages // self.cycles
            raise ValueError(f"{each} visits × cycles = {self.cycles}: expected at most {MOST_TASKS} in all")
        return self

    @property
    def visits(self) -> tuple[int, ...]:
        """Index of the task that each stage learns, (stages,)."""
        names = [task.name for task in self.tasks]
        return tuple(names.index(name) for name in self.order or names) * self.cycles

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.order or self.tasks) * self.cycles

    @property
    def comes_back(self) -> bool:
        """Whether a task is visited more than once."""
        return self.stages > len(self.tasks)

    @property
    def all_stages(self) -> range:
        """Numbers of all stages."""
        return range(1, self.stages + 1)

    def task_of(self, stage: int) -> TaskConfig:
        """Return the task that a stage learns."""
        return self.tasks[self.visits[stage - 1]]

    def seen(self, stage: int) -> tuple[TaskConfig, ...]:
        """Return the tasks that have been learned at the end of a stage, in the order of their first visits."""
        return self.tasks[: 1 + max(self.visits[:stage])]

    def seen_names(self, stage: int) -> list[str]:
        """Return the names of the tasks that have been learned at the end of a stage."""
        return [task.name for task in self.seen(stage)]

    def visit(self, stage: int) -> int:
        """Return which visit to its task a stage is."""
        return self.visits[:stage].count(self.visits[stage - 1])

    def visit_label(self, stage: int) -> str:
        """Return `` (visit 2)`` for a stage of a sequence whose tasks come back, else an empty string."""
        return f" (visit {self.visit(stage)})" if self.comes_back else ""

    @property
    def total_steps(self) -> int:
        """Training steps of all stages."""
        return sum(self.tasks[index].steps for index in self.visits)
