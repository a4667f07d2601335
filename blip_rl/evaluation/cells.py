"""Cells of the score matrix, played from stage checkpoints in this process.

:mod:`blip_rl.evaluation.pool` plays them in several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from blip_rl.config import EvaluationConfig, RunConfig, TaskConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.episodes import Episode, OnActions, evaluate_task, with_head_for
from blip_rl.learner.apart import method_of
from blip_rl.methods.base import Method
from blip_rl.storage.checkpoint import UNREADABLE, Stage, load_stage
from blip_rl.storage.paths import named_games
from blip_rl.storage.run_folder import RunFolder

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cell:
    """One game of the run, played by the agent of one stage."""

    stage: int
    task: str

    def __str__(self) -> str:
        return f"{self.task} after stage {self.stage}"


class CellPlayer(ABC, Generic[Result]):
    """Makes something of cells of one run; keeps the last stage it loaded.

    Goes to other processes as it is, before it has loaded any.
    """

    def __init__(self, run: Path, config: RunConfig, evaluation: EvaluationConfig) -> None:
        self.config, self.evaluation = config, evaluation
        self._run = run
        self._loaded: tuple[Stage, Method] | None = None

    @abstractmethod
    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Result:
        """Play a cell's episodes, and return what was asked for of them.

        Raises:
            UserError: the stage's checkpoint is damaged or not this run's.
        """

    def task(self, cell: Cell) -> TaskConfig:
        """The game of a cell."""
        (task,) = [task for task in self.config.tasks if task.name == cell.task]
        return task

    def evaluation_for(self, cell: Cell) -> EvaluationConfig:
        """How the cell's episodes are played, how many and with which seeds."""
        return self.evaluation

    def describe(self, cell: Cell) -> str:
        """A cell and the seeds of its episodes, as ``scores.csv`` has them."""
        evaluation = self.evaluation_for(cell)
        first, last = evaluation.seed, evaluation.seed + evaluation.episodes - 1
        return f"{cell} ({f'seed {first}' if first == last else f'seeds {first} to {last}'})"

    def _episodes(
        self,
        cell: Cell,
        on_games_over: Callable[[int], object],
        on_actions: OnActions = lambda playing, actions: None,
    ) -> list[Episode]:
        stage, method = self._stage(cell.stage)
        task = self.task(cell)
        policy = with_head_for(stage.policy, task, self.config)
        try:
            evaluation = self.evaluation_for(cell)
            return evaluate_task(policy, method, task, self.config, evaluation, None, on_games_over, on_actions)
        except UserError:
            raise
        except ValueError as error:  # weights so large that the network gives no numbers, or another network's memory
            raise UserError(f"the agent of stage {cell.stage} cannot play {task.name}: {error}") from error

    def _stage(self, number: int) -> tuple[Stage, Method]:
        if self._loaded is None or self._loaded[0].number != number:
            self._loaded = None  # before the next one is read: a stage can be hundreds of megabytes
            path = RunFolder(self._run).stage_path(number)
            stage = load_stage(path, self.config)
            if stage.number != number:
                raise UserError(f"'{path}' holds stage {stage.number}: not this run's")
            method = method_of(self.config.agent)
            try:
                method.load_state(stage.method_state)
            except UNREADABLE as error:
                raise UserError(f"checkpoint '{path}' does not fit the run's method: {error}") from error
            self._loaded = stage, method
        return self._loaded


def play_here(
    player: CellPlayer[Result], cells: Sequence[Cell], on_games_over: Callable[[int], object]
) -> Generator[Result, None, None]:
    """Play cells one after another in this process, each one's result as soon as it is done.

    One torch thread, as every worker has: sums of another order could tip a greedy choice.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            yield player.play(cell, on_games_over)
    finally:
        torch.set_num_threads(threads)


def chosen_games(config: RunConfig, games: Sequence[str] | None) -> list[str]:
    """Names of the run's tasks, in its order; None takes all.

    Raises:
        UserError: a game the run never saw, or that several of its tasks play.
    """
    tasks = {task.name: task.game for task in config.tasks}
    chosen = list(tasks) if games is None else named_games(games, tasks)
    return [name for name in tasks if name in chosen]


def chosen_stages(folder: RunFolder, config: RunConfig, stages: Sequence[int] | None) -> list[int]:
    """Numbers of stages that have a checkpoint, rising; None takes all.

    Raises:
        UserError: there is none, not the one asked for, or one that is not this run's.
    """
    finished = folder.stages()
    if not finished:
        raise UserError(f"'{folder.path}' has no stage checkpoint: one is written when the first game has been learned")
    for stage in stages or ():
        if stage not in finished:
            raise UserError(
                f"stage {stage} has no checkpoint in '{folder.path}': expected one of {', '.join(map(str, finished))}"
            )
    chosen = [stage for stage in finished if stages is None or stage in stages]
    if chosen[-1] > len(config.tasks):
        raise UserError(f"'{folder.stage_path(chosen[-1])}' is one of {len(config.tasks)} stages: not this run's")
    return chosen
