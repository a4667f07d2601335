"""Evaluate the stage checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.console import Console
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, chosen_games, chosen_stages
from blip_rl.evaluation.episodes import score_rows
from blip_rl.evaluation.pool import play_cells
from blip_rl.formatting import aligned, score_text
from blip_rl.methods import learns_together
from blip_rl.records import ScoreRow
from blip_rl.reference_scores import task_scale
from blip_rl.storage.run_folder import RunFolder


class ScoringPlayer(CellPlayer[list[ScoreRow]]):
    """Play a cell and return the scores of its episodes."""

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> list[ScoreRow]:
        """Return one row of ``scores.csv`` per episode."""
        episodes = self._episodes(cell, on_games_over)
        stage, _ = self._stage(cell.stage)
        return score_rows(episodes, self.task(cell), self.evaluation, stage.env_steps, cell.stage, "after")


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        rows: One for each episode.
        text: The score matrix: raw returns and, if the recipe has reference scores, normalised scores.
    """

    rows: list[ScoreRow]
    text: str


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
    quiet: bool = True,
) -> Evaluation:
    """Evaluate the agent of every stage on the games it has learned and write the scores to ``scores.csv``.

    Each cell of the score matrix is stored as soon as it has been played. Several processes may evaluate one run at the
    same time. Scores are only returned, not stored, if the run is unfinished (the training process owns its table) or
    the folder is not writable. They do not depend on the number of workers.

    Args:
        run: A run folder.
        games: Names of the run's tasks to play; None selects all.
        episodes: Episodes per task; None: as in the run's recipe.
        actions: Greedy or sampled actions; None: as in the run's recipe.
        zero_shot: Also play games that the stage has not learned yet, with an untrained head.
        seed: First evaluation seed; None: as in the run's recipe.
        stages: Stages to evaluate; None selects all that have a checkpoint.
        workers: Number of processes; None: see :func:`~blip_rl.evaluation.pool.play_cells`.
        quiet: Show no progress bar.

    Returns:
        The rows, and the score matrix as text.

    Raises:
        UserError: not a run folder, no finished stage, an unknown stage or game, a damaged file.
        RunError: a worker died or failed.
    """
    from blip_rl.recipe_errors import validated
    from blip_rl.recipes import load_run_config

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    folder.read_scores()  # detect a damaged file now: playing can take hours
    not_stored = _reason_not_stored(folder, config)
    chosen = chosen_games(config, games)
    cells = _cells(config, chosen_stages(folder, config, stages), chosen, zero_shot)
    given = {"episodes": episodes, "actions": actions, "seed": seed}
    asked = {key: value for key, value in given.items() if value is not None}
    evaluation = validated(EvaluationConfig, {**config.evaluation.model_dump(), **asked}, "evaluate")
    rows = _play(folder, ScoringPlayer(run, config, evaluation), cells, workers, not_stored, Console(quiet))
    note = f"\nnot written to scores.csv: {not_stored}" if not_stored else ""
    return Evaluation(rows, _table(config, chosen, rows, evaluation) + note)


def _reason_not_stored(folder: RunFolder, config: RunConfig) -> str:
    """Return the reason why scores cannot be written to ``scores.csv``; empty if they can."""
    if not folder.finished(config.stages):
        return f"the run in '{folder.path}' is not finished"
    try:
        folder.check_writable()
    except OSError as error:
        return f"'{folder.path}' is not writable ({error.strerror or error})"
    return ""


def _cells(config: RunConfig, stages: list[int], games: list[str], zero_shot: bool) -> list[Cell]:
    cells = [Cell(stage, game) for stage in stages for game in games if zero_shot or game in config.seen_names(stage)]
    if not cells:
        raise UserError(
            f"nothing to play: {', '.join(games)} had not been learned by stage {', '.join(map(str, stages))} "
            "(--zero-shot also plays games that a stage had not learned yet)"
        )
    return cells


def _play(
    folder: RunFolder,
    player: ScoringPlayer,
    cells: list[Cell],
    workers: int | None,
    not_stored: str,
    console: Console,
) -> list[ScoreRow]:
    """Play the cells and store the scores of each finished cell, unless ``not_stored`` gives a reason not to."""
    played: list[ScoreRow] = []
    total = len(cells) * player.evaluation.episodes
    kept = f"finished cells are {f'not stored: {not_stored}' if not_stored else 'in scores.csv'}"
    with (
        console.counter(f"playing {len(cells)} cells", total) as bar,
        closing(play_cells(player, cells, workers, bar.update, kept)) as results,  # stops the workers on any error
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
    """Return one line per stage: the mean of an attribute over the episodes of each game."""
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
    if learns_together(str(config.agent.method["name"])):
        return "learned all at once"
    return f"learned {config.task_of(stage).name}{config.visit_label(stage)}"
