"""Cells of the score matrix, played from stage checkpoints in this process (:mod:`blip_rl.run.workers`: in many)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError
from blip_rl.methods import make_method
from blip_rl.methods.base import Method
from blip_rl.run.checkpoint import Stage, load_stage
from blip_rl.run.evaluation import evaluate_task, score_rows
from blip_rl.run.folder import RunFolder, ScoreRow
from blip_rl.run.scores import able_to_play


@dataclass(frozen=True)
class Cell:
    """One game of the run, played by the agent of one stage."""

    stage: int
    task: str

    def __str__(self) -> str:
        return f"{self.task} after stage {self.stage}"


class CellPlayer:
    """Plays cells of one run; keeps the last stage it loaded. Goes to other processes as it is, before it has any."""

    def __init__(self, run: Path, config: RunConfig, evaluation: EvaluationConfig) -> None:
        self._run, self._config, self._evaluation = run, config, evaluation
        self._loaded: tuple[Stage, Method] | None = None

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> list[ScoreRow]:
        """Play a cell's episodes.

        Raises:
            UserError: the stage's checkpoint is damaged or not this run's.
        """
        stage, method = self._stage(cell.stage)
        (task,) = [task for task in self._config.tasks if task.name == cell.task]
        policy = able_to_play(stage.policy, task, self._config)
        episodes = evaluate_task(policy, method, task, self._config, self._evaluation, None, on_games_over)
        return score_rows(episodes, task, self._evaluation, stage.env_steps, cell.stage, "after")

    def _stage(self, number: int) -> tuple[Stage, Method]:
        if self._loaded is None or self._loaded[0].number != number:
            self._loaded = None  # before the next one is read: a stage can be hundreds of megabytes
            path = RunFolder(self._run).stage_path(number)
            stage = load_stage(path, self._config)
            if stage.number != number:
                raise UserError(f"'{path}' holds stage {stage.number}: not this run's")
            method = make_method(self._config.agent.method)
            try:
                method.load_state(stage.method_state)
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(f"checkpoint '{path}' does not fit the run's method: {error}") from error
            self._loaded = stage, method
        return self._loaded


def play_here(
    player: CellPlayer, cells: Sequence[Cell], on_games_over: Callable[[int], object]
) -> Generator[list[ScoreRow], None, None]:
    """Play cells one after another in this process, each one's rows as soon as it is done.

    One torch thread, as every worker has: sums of another order could tip a greedy choice.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            yield player.play(cell, on_games_over)
    finally:
        torch.set_num_threads(threads)
