"""Score a finished run again from its stage checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.console import Console, aligned
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, chosen_games, chosen_stages
from blip_rl.evaluation.episodes import score_rows
from blip_rl.evaluation.pool import play_cells
from blip_rl.formatting import score_text
from blip_rl.methods import load_method
from blip_rl.records import ScoreRow
from blip_rl.references import task_scale
from blip_rl.storage.run_folder import RunFolder


class ScoringPlayer(CellPlayer[list[ScoreRow]]):
    """Plays a cell's episodes for their scores."""

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> list[ScoreRow]:
        """Play, and return a row for each episode."""
        episodes = self._episodes(cell, on_games_over)
        stage, _ = self._stage(cell.stage)
        return score_rows(episodes, self.task(cell), self.evaluation, stage.env_steps, cell.stage, "after")


def evaluate_run(
    run: Path,
    *,
    games: Sequence[str] | None = None,
    episodes: int | None = None,
    actions: Literal["greedy", "stochastic"] | None = None,
    zero_shot: bool = False,
    seed: int | None = None,
    stages: Sequence[int] | None = None,
    workers: int | None = None,
) -> str:
    """Play every stage's agent on the games it has learned, and write the scores into ``scores.csv``.

    Each cell of the matrix is stored as soon as it has been played. Several processes may score one run at the same
    time. Nothing is stored, only returned, if the run is not finished (its table belongs to the process that trains) or
    its folder may not be written. The scores do not depend on the number of workers.

    Args:
        run: A run folder.
        games: Names of the run's tasks to play; None plays all.
        episodes: Episodes per task; None as in the run's recipe, as with the next two.
        actions: Greedy or sampled.
        zero_shot: Also play games the stage has not learned yet, with an untrained head.
        seed: First evaluation seed.
        stages: Stages to play; None plays all that are finished.
        workers: Processes to play in; None as in :func:`~blip_rl.evaluation.pool.play_cells`.

    Returns:
        The score matrix as text, raw and, where the recipe has the scores for it, normalised.

    Raises:
        UserError: not a run folder, no stage finished yet, a stage or game the run never saw, a damaged file.
        RunError: a worker died or failed.
    """
    from blip_rl.recipes import load_run_config
    from blip_rl.recipes.problems import validated

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    folder.read_scores()  # a damaged file is found before hours of playing
    not_stored = _reason_not_stored(folder, config)
    chosen = chosen_games(config, games)
    cells = _cells(config, chosen_stages(folder, config, stages), chosen, zero_shot)
    given = {"episodes": episodes, "actions": actions, "seed": seed}
    asked = {key: value for key, value in given.items() if value is not None}
    evaluation = validated(EvaluationConfig, {**config.evaluation.model_dump(), **asked}, "evaluate")
    rows = _play(folder, ScoringPlayer(run, config, evaluation), cells, workers, not_stored)
    note = f"\nnot written into scores.csv: {not_stored}" if not_stored else ""
    return _table(config, chosen, rows, evaluation) + note


def _reason_not_stored(folder: RunFolder, config: RunConfig) -> str:
    """Why scores cannot be written into ``scores.csv``; empty if they can."""
    if not folder.finished(len(config.tasks)):
        return f"the run in '{folder.path}' is not finished"
    try:
        folder.check_writable()
    except OSError as error:
        return f"'{folder.path}' may not be written ({error.strerror or error})"
    return ""


def _cells(config: RunConfig, stages: list[int], games: list[str], zero_shot: bool) -> list[Cell]:
    names = [task.name for task in config.tasks]
    cells = [Cell(stage, game) for stage in stages for game in games if zero_shot or names.index(game) < stage]
    if not cells:
        raise UserError(
            f"nothing to play: {', '.join(games)} had not been learned by stage {', '.join(map(str, stages))} "
            "(--zero-shot plays games that a stage had not learned yet)"
        )
    return cells


def _play(
    folder: RunFolder, player: ScoringPlayer, cells: list[Cell], workers: int | None, not_stored: str
) -> list[ScoreRow]:
    """Play the cells and store the scores of each one as it comes, unless there is a reason not to."""
    played: list[ScoreRow] = []
    total = len(cells) * player.evaluation.episodes
    kept = f"cells that were done are {f'not kept: {not_stored}' if not_stored else 'in scores.csv'}"
    with (
        Console(quiet=False).counter(f"playing {len(cells)} cells", total) as bar,
        closing(play_cells(player, cells, workers, bar.update, kept)) as results,  # ends the workers, come what may
    ):
        for rows in results:
            if not not_stored:
                folder.replace_scores(rows)
            played += rows
    return played


def _table(config: RunConfig, games: list[str], rows: list[ScoreRow], evaluation: EvaluationConfig) -> str:
    lines = _matrix(config, games, rows, "mean raw return", "score")
    if any(row.normalised is not None for row in rows):
        lines += ["", *_matrix(config, games, rows, "normalised", "normalised")]
        lines += [f"({task_scale(task for task in config.tasks if task.name in games)})"]
    return "\n".join([*lines, "", f"{evaluation.episodes} {evaluation.actions} episodes for each cell"])


def _matrix(config: RunConfig, games: list[str], rows: list[ScoreRow], title: str, attribute: str) -> list[str]:
    """One line for each stage: the mean of one attribute over its episodes of each game."""
    cells: dict[tuple[int, str], list[float | None]] = {}
    for row in rows:
        cells.setdefault((row.stage, row.task), []).append(getattr(row, attribute))
    lines = [[title, "", *games]]
    for stage in sorted({stage for stage, _ in cells}):
        values = (cells.get((stage, game), [None]) for game in games)
        means = ["" if None in found else score_text(float(np.mean(np.array(found, float)))) for found in values]
        lines.append([_learned_label(config, stage), f"stage {stage}", *means])
    return aligned(lines)


def _learned_label(config: RunConfig, stage: int) -> str:
    if load_method(str(config.agent.method["name"])).interleaved:
        return "learned all at once"
    return f"learned {config.tasks[stage - 1].name}"
