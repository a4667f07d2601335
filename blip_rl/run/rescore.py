"""Score a finished run again from its stage checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from blip_rl.config import EvaluationConfig, RunConfig
from blip_rl.errors import UserError, did_you_mean
from blip_rl.methods import load_method
from blip_rl.run.cells import Cell, CellPlayer, play_here
from blip_rl.run.console import Console
from blip_rl.run.folder import RunFolder, ScoreRow
from blip_rl.run.summary import aligned
from blip_rl.run.workers import play_in_workers
from blip_rl.tasks.games import rom_name


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

    The scores do not depend on the number of workers. Each cell of the matrix is written as soon as it has been played.

    Args:
        run: A run folder.
        games: Names of the run's tasks to play; None plays all.
        episodes: Episodes per task; None as in the run's recipe, as with the next two.
        actions: Greedy or sampled.
        zero_shot: Also play games the stage has not learned yet, with an untrained head.
        seed: First evaluation seed.
        stages: Stages to play; None plays all that are finished.
        workers: Processes to play in; None takes one for each core if an Atari game is played, and else none: games of
            a few milliseconds are over before a process has started.

    Returns:
        The score matrix as text, raw and, where the recipe has the scores for it, normalised.

    Raises:
        UserError: not a run folder, no stage finished yet, a stage or game the run never saw, a damaged file.
        RunError: a worker died or failed.
    """
    from blip_rl.recipes import load_run_config

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    folder.read_scores()  # a damaged file is found before hours of playing
    chosen = _chosen_games(config, games)
    cells = _cells(config, _chosen_stages(folder, config, stages), chosen, zero_shot)
    given = {"episodes": episodes, "actions": actions, "seed": seed}
    evaluation = EvaluationConfig(
        **{**config.evaluation.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    )
    if workers is None:
        workers = _cores() if any(rom_name(t.game) for t in config.tasks if t.name in chosen) else 1
    rows = _play(folder, CellPlayer(run, config, evaluation), cells, workers, evaluation.episodes)
    return _table(config, chosen, rows, evaluation)


def _chosen_games(config: RunConfig, games: Sequence[str] | None) -> list[str]:
    names = [task.name for task in config.tasks]
    for game in games or ():
        if game not in names:
            hint = did_you_mean(game, names)
            raise UserError(f"this run never saw {game!r}{hint} (its games: {', '.join(names)})")
    return [name for name in names if games is None or name in games]


def _chosen_stages(folder: RunFolder, config: RunConfig, stages: Sequence[int] | None) -> list[int]:
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


def _cells(config: RunConfig, stages: list[int], games: list[str], zero_shot: bool) -> list[Cell]:
    names = [task.name for task in config.tasks]
    cells = [Cell(stage, game) for stage in stages for game in games if zero_shot or names.index(game) < stage]
    if not cells:
        raise UserError(
            f"nothing to play: {', '.join(games)} had not been learned by stage {', '.join(map(str, stages))} "
            "(--zero-shot plays games that a stage had not learned yet)"
        )
    return cells


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _play(folder: RunFolder, player: CellPlayer, cells: list[Cell], workers: int, episodes: int) -> list[ScoreRow]:
    """Play the cells and write each one down as it comes; the files are this process's alone."""
    played: list[ScoreRow] = []
    alone = workers == 1 or len(cells) == 1
    with Console(quiet=False).counter(f"playing {len(cells)} cells", len(cells) * episodes) as bar:
        results = play_here(player, cells, bar.update) if alone else play_in_workers(player, cells, workers, bar.update)
        with closing(results):  # ends the workers, whatever happens here
            for rows in results:
                folder.replace_scores(rows)
                played += rows
    return played


def _table(config: RunConfig, games: list[str], rows: list[ScoreRow], evaluation: EvaluationConfig) -> str:
    lines = _matrix(config, games, rows, "mean raw return", "score", ".1f")
    if any(row.normalised is not None for row in rows):
        lines += ["", *_matrix(config, games, rows, "normalised", "normalised", ".3f")]
        lines += ["(0 = random play, 1 = the reference score of the recipe)"]
    return "\n".join([*lines, "", f"{evaluation.episodes} {evaluation.actions} episodes for each cell"])


def _matrix(
    config: RunConfig, games: list[str], rows: list[ScoreRow], title: str, attribute: str, digits: str
) -> list[str]:
    """One line for each stage: the mean of one attribute over its episodes of each game."""
    cells: dict[tuple[int, str], list[float | None]] = {}
    for row in rows:
        cells.setdefault((row.stage, row.task), []).append(getattr(row, attribute))
    lines = [[title, "", *games]]
    for stage in sorted({stage for stage, _ in cells}):
        values = (cells.get((stage, game), [None]) for game in games)
        means = ["" if None in found else format(float(np.mean(np.array(found, float))), digits) for found in values]
        lines.append([_learned(config, stage), f"stage {stage}", *means])
    return aligned(lines)


def _learned(config: RunConfig, stage: int) -> str:
    if load_method(str(config.agent.method["name"])).interleaved:
        return "learned all at once"
    return f"learned {config.tasks[stage - 1].name}"
