"""Scores of a run: evaluates tasks, writes every episode to ``scores.csv`` and keeps the score matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from stable_baselines3.common.logger import Logger

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.core import metrics, visit_metrics
from blip_rl.core.score_matrix import select_columns
from blip_rl.errors import UserError
from blip_rl.evaluation.episodes import (
    Episode,
    EpisodeActions,
    evaluate_task,
    mean_score,
    normalised,
    score_rows,
    with_head_for,
)
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.records import Phase, ScoreRow, SpeedRow, mean_returns
from blip_rl.run.interruption import StopRequest
from blip_rl.run.plasticity import PlasticityRecorder
from blip_rl.storage.run_folder import RunFolder
from blip_rl.task_schedule import TaskConfig

_CUT_OFF = 4  # times its share of steps: cuts off a policy that got stuck after the last evaluation
_NO_LIMIT = 1e15  # steps: above any evaluation's, and finite whatever periodic_share is


def check_known(rows: Iterable[ScoreRow], config: RunConfig, source: Path) -> None:
    """Check that scores are of a run's tasks and stages.

    Raises:
        UserError: A row is not; the message names ``source``, the table.
    """
    names = [task.name for task in config.tasks]
    for row in rows:
        if row.task not in names or not 1 <= row.stage <= config.stages:
            raise UserError(f"'{source}' has stage {row.stage} of {row.task!r}: not one of this run")


class ScoreBook:
    """Evaluates the tasks of one run and keeps their scores.

    Attributes:
        before: Mean raw return before each consolidation, (stages, tasks); NaN where not measured.
        after: The same after consolidation: the score matrix R of continual learning.
        during: Raw scores of each task at the evaluations of each stage after its start: (stage, task) → scores.
        latest: Newest normalised score of each task, (tasks,); NaN where unknown.
        boundary_games: Task → its episodes at the end of the newest task, and their actions; only with
            ``evaluation.gifs``.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        logger: Logger,
        console: Console,
        method: Method,
        stop: StopRequest,
        plasticity: PlasticityRecorder,
    ) -> None:
        self._config, self._folder, self._logger, self._console = config, folder, logger, console
        self._method, self._stop, self._plasticity = method, stop, plasticity
        self.boundary_games: dict[str, tuple[list[Episode], EpisodeActions]] = {}
        tasks = len(config.tasks)
        self.before = np.full((config.stages, tasks), np.nan)
        self.after = np.full((config.stages, tasks), np.nan)
        self.during: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.latest = np.full(tasks, np.nan)
        self._started = set[int]()  # tasks that were scored before their first training step
        self._lengths = np.full(tasks, np.nan)  # mean steps of an episode in each task's newest evaluation

    def restore(self, rows: Sequence[ScoreRow]) -> None:
        """Restore the scores of a resumed run.

        Args:
            rows: All rows of ``scores.csv``.

        Raises:
            UserError: A row has a task or stage that the run does not have.
        """
        check_known(rows, self._config, self._folder.scores)
        names = [task.name for task in self._config.tasks]
        own = [row for row in rows if row.actions == self._config.evaluation.actions]
        for (stage, phase, task, _), episodes in groupby(own, key=lambda r: (r.stage, r.phase, r.task, r.env_steps)):
            self._keep(names.index(task), [Episode.of(row) for row in episodes], stage, phase)

    def evaluate(self, policy: ContinualPolicy, stage: int, phase: Phase, env_steps: int) -> list[list[Episode]]:
        """Evaluate every task seen so far, or all tasks with ``evaluation.unseen_tasks``, and record the scores.

        Args:
            policy: Has a head for every task seen.
            stage: Number of the stage, counted from 1.
            phase: When in the stage; a periodic evaluation takes at most ``evaluation.periodic_share`` of the steps.
            env_steps: Training steps of the whole run.

        Returns:
            The episodes of tasks 0, 1, ….

        Raises:
            StopRequestError: A stop was requested; nothing is recorded.
        """
        tasks = self._config.tasks if self._config.evaluation.unseen_tasks else self._config.seen(stage)
        share = self._share(len(tasks)) if phase == "periodic" else None
        played = [self._play(policy, index, share) for index in range(len(tasks))]
        self.record(played, stage, phase, env_steps)
        return played

    def evaluate_start(self, policy: ContinualPolicy, stage: int, tasks: Sequence[int], env_steps: int) -> None:
        """Evaluate tasks before their first training step, unless a resumed run has done so already.

        These scores enter no metric and do not change later scores.

        Args:
            policy: Has a head for every one of the tasks.
            stage: Number of the stage that starts, counted from 1.
            tasks: Indices of the tasks that it trains, counted from 0.
            env_steps: Training steps of the whole run.
        """
        missing = [index for index in tasks if index not in self._started]
        played = {index: self._play(policy, index, self._share(len(self._config.seen(stage)))) for index in missing}
        for index, episodes in played.items():
            self._write(index, episodes, stage, "start", env_steps)
        if played:
            self._logger.dump(env_steps)

    def _play(self, policy: ContinualPolicy, index: int, share: float | None) -> list[Episode]:
        task, evaluation = self._config.tasks[index], self._config.evaluation
        budget = None
        if share is not None:
            games = self._whole_games(index, share)
            evaluation = evaluation.model_copy(update={"episodes": games})
            budget = max(games, math.ceil(_CUT_OFF * share))
        player = with_head_for(policy, task, self._config)
        with self._console.counter(f"scoring {task.name}", evaluation.episodes) as bar:

            def games_over(count: int) -> None:
                self._stop.check()
                bar.update(count)

            if share is not None or not evaluation.gifs:
                return evaluate_task(player, self._method, task, self._config, evaluation, budget, games_over)
            log = EpisodeActions()
            episodes = evaluate_task(player, self._method, task, self._config, evaluation, None, games_over, log)
            self.boundary_games[task.name] = episodes, log
            return episodes

    def record(self, played: Sequence[list[Episode]], stage: int, phase: Phase, env_steps: int) -> None:
        """Record the episodes of tasks 0, 1, … in ``scores.csv``, TensorBoard and the score matrix; measure plasticity.

        Args:
            played: The episodes of each task.
            stage: Number of the stage, counted from 1.
            phase: When in the stage.
            env_steps: Training steps of the whole run.
        """
        for index, episodes in enumerate(played):
            self._write(index, episodes, stage, phase, env_steps)
        if phase != "before":
            self._log_run(stage, phase)
        self._plasticity.record(stage, phase, env_steps)
        self._logger.dump(env_steps)

    def _write(self, index: int, episodes: list[Episode], stage: int, phase: Phase, env_steps: int) -> None:
        """Record one task's episodes in ``scores.csv`` and TensorBoard, and update the score matrix."""
        task = self._config.tasks[index]
        self._folder.add_scores(score_rows(episodes, task, self._config.evaluation, env_steps, stage, phase))
        self._keep(index, episodes, stage, phase)
        if phase != "before":
            self._log_task(task, episodes)

    def add_speed(self, stage: int, env_steps: int, steps_per_second: float, peak_memory_bytes: int) -> None:
        """Append the training speed so far, without evaluations, to ``speed.csv``."""
        self._folder.add_speed(SpeedRow(env_steps, stage, steps_per_second, peak_memory_bytes / 1e6))

    def normalised(self, matrix: np.ndarray) -> np.ndarray:
        """Return a matrix of raw returns, (stages, tasks), normalised; NaN where a task has no normalisers."""
        return np.array([[_or_nan(normalised(score, task)) for score, task in self._pairs(row)] for row in matrix])

    def _pairs(self, row: np.ndarray) -> list[tuple[float, TaskConfig]]:
        return list(zip(row.tolist(), self._config.tasks, strict=True))

    def _share(self, tasks: int) -> float:
        """Return how many steps a periodic evaluation may take for each of so many tasks.

        Counted in steps, not in seconds, so that a run does not depend on the machine's speed.
        """
        evaluation = self._config.evaluation
        return min(evaluation.periodic_share * evaluation.every_steps / tasks, _NO_LIMIT)

    def _whole_games(self, index: int, share: float) -> int:
        """Return how many episodes fit into a share of steps, given their mean length in the last evaluation.

        Fewer whole episodes rather than more truncated ones: the return of a truncated episode is biased low.
        """
        episodes, length = self._config.evaluation.episodes, self._lengths[index]
        return episodes if math.isnan(length) else int(np.clip(share / length, 1, episodes))

    def _keep(self, index: int, episodes: list[Episode], stage: int, phase: Phase) -> None:
        if phase == "start":
            self._started.add(index)
            return
        score = mean_score(episodes)
        self._lengths[index] = np.mean([episode.length_steps for episode in episodes])
        self.during[stage, index].append(score)
        if phase == "before":
            self.before[stage - 1, index] = score
            return
        self.latest[index] = _or_nan(normalised(score, self._config.tasks[index]))
        if phase == "after":
            self.after[stage - 1, index] = score

    def _log_task(self, task: TaskConfig, episodes: list[Episode]) -> None:
        self._logger.record(f"eval/{task.name}/return", mean_score(episodes))
        self._logger.record(f"eval/{task.name}/length_steps", float(np.mean([e.length_steps for e in episodes])))
        self._logger.record(f"eval/{task.name}/truncated_episodes", sum(e.truncated for e in episodes))
        value = normalised(mean_score(episodes), task)
        if value is not None:
            self._logger.record(f"eval/{task.name}/normalised", value)

    def _log_run(self, stage: int, phase: Phase) -> None:
        seen = self._config.seen(stage)
        total = metrics.accumulated([self.latest[index] for index, task in enumerate(seen) if task.has_normalisers])
        if not math.isnan(total) and any(task.has_normalisers for task in seen):
            self._logger.record("continual/accumulated_normalised_reward", total)
        if phase != "after":
            return
        for name, value in (self.summary(stage) | {"last_cycle_sum": self.last_cycle_sum(stage)}).items():
            if not math.isnan(value):
                self._logger.record(f"continual/{name}", value)
        loss = metrics.consolidation_loss(self.normalised(self.before), self.normalised(self.after))[stage - 1]
        for task, lost in zip(self._config.tasks, loss.tolist(), strict=False):
            if not math.isnan(lost):
                self._logger.record(f"consolidation_loss/{task.name}", lost)

    def summary(self, stage: int) -> dict[str, float]:
        """Return metrics at the end of a stage, over the tasks seen that have normalisers; NaN where undefined."""
        kept = [index for index, task in enumerate(self._config.seen(stage)) if task.has_normalisers]
        if not kept:
            return {}
        matrix, visits = select_columns(self.normalised(self.after)[:stage], self._config.visits[:stage], kept)
        return {
            "acc": metrics.average_performance(matrix),
            "worst_task": metrics.worst_performance(matrix),
            "bwt": metrics.backward_transfer(matrix, visits),
            "worst_bwt": metrics.worst_backward_transfer(matrix, visits),
            "forgetting_between_visits": float(visit_metrics.forgetting_between_visits(matrix, visits)[-1]),
            "stability_gap": self._stability_gap(stage - 1, matrix, visits) if stage > 1 else math.nan,
        }

    def last_cycle_sum(self, stage: int) -> float:
        """Return the last-cycle sum at the end of a stage; NaN before every task has come back or been visited last."""
        visits = self._config.visits[:stage]
        if not self._config.comes_back or len(set(visits)) < len(self._config.tasks):
            return math.nan
        found = mean_returns(self._folder.read_returns())
        each = [found.get((number, self._config.tasks[task].name), math.nan) for number, task in enumerate(visits, 1)]
        return visit_metrics.last_cycle_sum(each, visits)

    def _stability_gap(self, stage: int, matrix: np.ndarray, visits: Sequence[int]) -> float:
        """Return the normalised stability gap of a stage's task during the next stage; NaN without another task."""
        index = self._config.visits[stage - 1]
        if visits[stage - 1] < 0 or self._config.visits[stage] == index:
            return math.nan
        scores = [_or_nan(normalised(score, self._config.tasks[index])) for score in self.during[stage + 1, index]]
        return visit_metrics.stability_gap(float(matrix[stage - 1, visits[stage - 1]]), scores)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
