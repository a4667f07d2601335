"""Play cells of the score matrix from stage checkpoints, in this process.

:mod:`blip_rl.evaluation.pool` plays them in several worker processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.episodes import Episode, OnActions, evaluate_task, with_head_for
from blip_rl.learner.separate_trunk import build_method
from blip_rl.methods.base import Method, MethodState
from blip_rl.storage.checkpoint import UNREADABLE, Stage, load_stage
from blip_rl.storage.paths import named_games
from blip_rl.storage.run_folder import RunFolder
from blip_rl.task_schedule import TaskConfig

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cell:
    """A cell of the score matrix: one game of the run, played by the agent of one stage."""

    stage: int
    task: str

    def __str__(self) -> str:
        return f"{self.task} after stage {self.stage}"


class CellPlayer(ABC, Generic[Result]):
    """Base class: play the cells of one run and return a result for each.

    Caches the last loaded stage. Is pickled for worker processes before any stage is loaded.
    """

    def __init__(self, run: Path, config: RunConfig, evaluation: EvaluationConfig) -> None:
        self.config, self.evaluation = config, evaluation
        self._run = run
        self._loaded: tuple[Stage, Method] | None = None

    @abstractmethod
    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Result:
        """Play a cell and return its result.

        Args:
            cell: The cell to play.
            on_games_over: Called with the number of episodes that have just ended.

        Raises:
            UserError: the stage's checkpoint is damaged or belongs to another run.
        """

    def task(self, cell: Cell) -> TaskConfig:
        """Return the task of a cell."""
        (task,) = [task for task in self.config.tasks if task.name == cell.task]
        return task

    def evaluation_for(self, cell: Cell) -> EvaluationConfig:
        """Return the evaluation settings of a cell: number of episodes, seeds and actions."""
        return self.evaluation

    def describe(self, cell: Cell) -> str:
        """Return the name of a cell with the seeds of its episodes, as they appear in ``scores.csv``."""
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
        except ValueError as error:  # non-finite network outputs, or method state of another network
            raise UserError(f"the agent of stage {cell.stage} cannot play {task.name}: {error}") from error

    def _stage(self, number: int) -> tuple[Stage, Method]:
        if self._loaded is None or self._loaded[0].number != number:
            self._loaded = None  # free it before the next one is loaded: a stage can take hundreds of megabytes
            self._loaded = load_player(self._run, self.config, number)
        return self._loaded


def load_player(run: Path, config: RunConfig, number: int) -> tuple[Stage, Method]:
    """Load what plays the games of a stage: its policy, and the method with its state.

    Raises:
        UserError: the checkpoint is damaged, or belongs to another run or method.
    """
    path = RunFolder(run).stage_path(number)
    stage = load_stage(path, config)
    if stage.number != number:
        raise UserError(f"'{path}' contains stage {stage.number}: it belongs to another run")
    method = build_method(config.agent)
    if stage.method_state is None and not method.plays_with_state:
        return stage, method
    try:
        method.load_state(stage.method_state or MethodState())
    except UNREADABLE as error:
        raise UserError(f"checkpoint '{path}' does not fit the run's method: {error}") from error
    return stage, method


def play_here(
    player: CellPlayer[Result], cells: Sequence[Cell], on_games_over: Callable[[int], object]
) -> Generator[Result, None, None]:
    """Play cells one after another in this process and yield each result as soon as it is available.

    Uses one torch thread, as workers do: another number of threads changes the order of floating-point sums, which can
    change a greedy action.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            yield player.play(cell, on_games_over)
    finally:
        torch.set_num_threads(threads)


def chosen_games(config: RunConfig, games: Sequence[str] | None) -> list[str]:
    """Return the names of the selected tasks in the order of the run; None selects all.

    Raises:
        UserError: a game that is not one of the run's, or that several of its tasks play.
    """
    tasks = {task.name: task.game for task in config.tasks}
    chosen = list(tasks) if games is None else named_games(games, tasks)
    return [name for name in tasks if name in chosen]


def chosen_stages(folder: RunFolder, config: RunConfig, stages: Sequence[int] | None) -> list[int]:
    """Return the selected stages that have a checkpoint, in ascending order; None selects all.

    Raises:
        UserError: no checkpoint, a selected stage without one, or a checkpoint of another run.
    """
    finished = folder.stages()
    if not finished:
        raise UserError(
            f"'{folder.path}' has no stage checkpoint: the first one is written when the first game has been learned"
        )
    for stage in stages or ():
        if stage not in finished:
            raise UserError(
                f"stage {stage} has no checkpoint in '{folder.path}': expected one of {', '.join(map(str, finished))}"
            )
    chosen = [stage for stage in finished if stages is None or stage in stages]
    if chosen[-1] > config.stages:
        raise UserError(
            f"'{folder.stage_path(chosen[-1])}' does not belong to this run: it has only {config.stages} stages"
        )
    return chosen
