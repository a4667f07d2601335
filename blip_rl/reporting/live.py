"""Progress of a run, read from its folder while it is written, for ``blip-rl watch``. Never imports torch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from blip_rl.errors import UserError
from blip_rl.formatting import duration, score_text
from blip_rl.records import ScoreRow, SpeedRow, read_rows
from blip_rl.reporting.checkpoints import read_metadata, stage_folders
from blip_rl.reporting.played_steps import planned_steps
from blip_rl.reporting.run_record import trains_together
from blip_rl.reporting.scores import PlayedEvaluation, chosen_actions, load_config, no_recipe
from blip_rl.reporting.table import load_rows
from blip_rl.reporting.task import Task
from blip_rl.reporting.visits import VisitedTasks
from blip_rl.storage.lock import known_state
from blip_rl.storage.step_counter import STEP_COUNTER, read_steps
from blip_rl.untrusted.files import check_contained

RECENT_SECONDS = 60.0
"""A run counts as running for so long after its last write if this machine cannot tell whether its lock is held: not
every network file system shows the locks of other machines."""
RELEASED_SECONDS = 5.0
"""The same for a lock that is free: a new run, or another try of a sweep, locks its folder a moment later."""
_RATE_SECONDS = 120.0  # over which the rate is averaged

Status = Literal["running", "stopped", "finished"]


class _Recipe(VisitedTasks):
    """The part of ``config.toml`` that is shown; other keys are ignored."""

    agent_name: str
    seed: int
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    evaluation: PlayedEvaluation = PlayedEvaluation()


@dataclass(frozen=True)
class Score:
    """Newest score of a task: mean return, and the same normalised; NaN without normalisers."""

    mean_return: float
    normalised: float


@dataclass(frozen=True)
class RunState:
    """State of a run at one moment.

    Attributes:
        status: Whether it is being written, was stopped or killed, or is finished.
        learning: Task that is learned, and its number among the stages.
        env_steps: Training steps so far.
        total_steps: Training steps that the whole run takes, at least ``env_steps``.
        steps_per_second: Training speed; None if unknown.
        scores: Task → score at its newest evaluation.
        idle_seconds: Time since the last write.
    """

    status: Status
    learning: str
    env_steps: int
    total_steps: int
    steps_per_second: float | None
    scores: dict[str, Score]
    idle_seconds: float

    @property
    def share(self) -> float:
        """Completed share of the run, 0 to 1."""
        return min(1.0, self.env_steps / self.total_steps) if self.total_steps else 0.0

    @property
    def position(self) -> str:
        """Task, speed and remaining time, or why there is none."""
        if self.status == "finished":
            return "finished"
        if self.status == "stopped":
            return f"{self.learning}, stopped: not written for {duration(self.idle_seconds)}"
        if not self.steps_per_second:
            return f"{self.learning}, speed not known yet"
        left = max(0, self.total_steps - self.env_steps) / self.steps_per_second
        return f"{self.learning}, {self.steps_per_second:,.0f} steps/s, about {duration(left)} left"

    @property
    def scores_text(self) -> str:
        """Newest mean return of each task, with the normalised score in brackets."""
        return ", ".join(
            f"{task} {score_text(one.mean_return)}"
            + (f" ({one.normalised:z.2f})" if np.isfinite(one.normalised) else "")
            for task, one in self.scores.items()
        )

    @property
    def line(self) -> str:
        """The state as one line."""
        scores = f"; scores {self.scores_text}" if self.scores else ""
        return f"{self.env_steps:,} of {self.total_steps:,} steps ({self.share:.0%}), {self.position}{scores}"


class RunWatch:
    """Reads the state of one run again and again.

    Attributes:
        path: The run folder.
        title: Agent, tasks and seed.
    """

    def __init__(self, path: Path) -> None:
        """Read the recipe.

        Raises:
            UserError: Not a run folder, its recipe cannot be read, or a link in it points outside.
        """
        check_contained(path)
        self.path = path
        config = load_config(path)
        try:
            recipe = _Recipe.model_validate(config)
        except ValidationError as error:
            raise no_recipe(path, error) from error
        names = self._names = recipe.names
        self._actions = recipe.evaluation.actions
        self._stages = [names[task] for task in recipe.visits]
        self._total_steps = planned_steps(config, [recipe.tasks[task].steps for task in recipe.visits])
        self._together = trains_together(config)
        self.title = f"{recipe.agent_name} learns {', '.join(names)}, seed {recipe.seed}"
        self._seen: deque[tuple[float, int]] = deque()  # (time, steps)
        self._scores: dict[str, Score] = {}
        self._counted = self._scored_steps = 0
        self._read = (0, 0)  # size and time of scores.csv when it was read

    def look(self) -> RunState:
        """Return the state of the run now."""
        self._read_scores()
        # The counter is missing for a moment while the training replaces it, and once the run is finished.
        self._counted = read_steps(self.path) or self._counted
        stages = stage_folders(self.path)
        learned = max(stages, default=0)
        idle = max(0.0, time.time() - self._last_write())
        status = self._status(idle, learned)
        env_steps = max(self._counted, self._scored_steps)
        if status == "finished":
            env_steps = max(env_steps, _saved_steps(stages[learned]))
        return RunState(
            status=status,
            learning=self._learning(learned),
            env_steps=env_steps,
            # A callback may have ended a training early, and other versions may have played more.
            total_steps=env_steps if status == "finished" and env_steps else max(self._total_steps, env_steps),
            steps_per_second=self._rate(env_steps),
            scores=self._scores,
            idle_seconds=idle,
        )

    def _status(self, idle: float, learned: int) -> Status:
        # A finished run has no snapshot to resume from.
        if learned >= len(self._stages) and not any((self.path / "checkpoints").glob("step-*")):
            return "finished"
        lock = known_state(self.path / ".lock")
        recent = RELEASED_SECONDS if lock == "free" else RECENT_SECONDS
        return "running" if lock == "held" or idle < recent else "stopped"

    def _learning(self, learned: int) -> str:
        if self._together:
            return f"{len(self._names)} tasks at once"
        stage = min(learned + 1, len(self._stages))
        return f"{self._stages[stage - 1]} ({stage}/{len(self._stages)})"

    def _last_write(self) -> float:
        names = (STEP_COUNTER, "scores.csv", "returns.csv", "checkpoints", "config.toml")
        return max((_stat(self.path / name)[1] / 1e9 for name in names), default=0.0)

    def _rate(self, env_steps: int) -> float | None:
        """Return steps per second over the last two minutes; at first the last one in ``speed.csv``."""
        moment = _stat(self.path / STEP_COUNTER)[1] / 1e9
        if self._seen and env_steps < self._seen[-1][1]:  # resumed from a snapshot
            self._seen.clear()
        if moment and (not self._seen or (env_steps > self._seen[-1][1] and moment > self._seen[-1][0])):
            self._seen.append((moment, env_steps))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        if len(self._seen) > 1:
            (began, first), (ended, last) = self._seen[0], self._seen[-1]
            return (last - first) / (ended - began)
        speeds = load_rows(self.path / "speed.csv", SpeedRow, [], optional=True)
        return speeds[-1].steps_per_second if speeds else None

    def _read_scores(self) -> None:
        """Read ``scores.csv`` if it has changed."""
        path = self.path / "scores.csv"
        if self._read == (now := _stat(path)):
            return
        self._read = now
        try:
            rows = [row for _, row in read_rows(path, ScoreRow, errors="replace") if isinstance(row, ScoreRow)]
        except UserError:
            return  # missing or damaged: the report names the problem
        actions = chosen_actions(self._actions, {row.actions for row in rows})
        self._scores = _newest(row for row in rows if row.task in self._names and row.actions == actions)
        self._scored_steps = max((row.env_steps for row in rows), default=0)


def _newest(rows: Iterable[ScoreRow]) -> dict[str, Score]:
    """Return task → score at its newest evaluation, which is the last in the table."""
    episodes: dict[str, list[ScoreRow]] = {}
    for row in rows:
        own = episodes.setdefault(row.task, [])
        if own and (own[-1].env_steps, own[-1].stage, own[-1].phase) != (row.env_steps, row.stage, row.phase):
            own.clear()
        own.append(row)
    return {
        task: Score(
            float(np.mean([row.score for row in own])),
            float(np.mean([np.nan if row.normalised is None else row.normalised for row in own])),
        )
        for task, own in episodes.items()
    }


def _saved_steps(stage: Path) -> int:
    """Return the training steps in a stage's checkpoint; 0 if they cannot be read."""
    try:
        return read_metadata(stage).env_steps or 0
    except UserError:
        return 0


def _stat(path: Path) -> tuple[int, int]:
    """Return the size of a file and the time of its last change in nanoseconds; zeros if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
