"""Score a finished run again from its stage checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from blip_rl.config import EvaluationConfig, RunConfig, TaskConfig
from blip_rl.errors import UserError, did_you_mean
from blip_rl.methods import make_method
from blip_rl.run.checkpoint import Stage, load_stage
from blip_rl.run.evaluation import evaluate_task, score_rows
from blip_rl.run.folder import RunFolder, ScoreRow
from blip_rl.run.scores import able_to_play
from blip_rl.run.summary import aligned


def evaluate_run(
    run: Path,
    *,
    games: tuple[str, ...] | None = None,
    episodes: int | None = None,
    actions: Literal["greedy", "stochastic"] | None = None,
    zero_shot: bool = False,
    seed: int | None = None,
) -> str:
    """Play every stage's agent on the games it has learned, and write the scores into ``scores.csv``.

    Args:
        run: A run folder.
        games: Names of the run's tasks to play; None plays all.
        episodes: Episodes per task; None as in the run's recipe, as with the next two.
        actions: Greedy or sampled.
        zero_shot: Also play games the stage has not learned yet, with an untrained head.
        seed: First evaluation seed.

    Returns:
        The score matrix as text.

    Raises:
        UserError: not a run folder, no stage finished yet, a game the run never saw, a damaged file.
    """
    from blip_rl.recipes import load_run_config

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    chosen = _chosen_tasks(config, games)
    if not folder.stages():
        raise UserError(f"'{run}' has no stage checkpoint: one is written when the first game has been learned")
    given = {"episodes": episodes, "actions": actions, "seed": seed}
    evaluation = EvaluationConfig(
        **{**config.evaluation.model_dump(), **{k: v for k, v in given.items() if v is not None}}
    )
    matrix = np.full((len(config.tasks), len(config.tasks)), np.nan)
    for number in folder.stages():
        stage = load_stage(folder.stage_path(number), config)
        if stage.number != number or number > len(config.tasks):
            raise UserError(
                f"'{folder.stage_path(number)}' holds stage {stage.number} of {len(config.tasks)}: not this run's"
            )
        for task in chosen:
            index = config.tasks.index(task)
            if index < number or zero_shot:
                rows = _score(stage, task, config, evaluation)
                folder.replace_scores(rows)
                matrix[number - 1, index] = np.mean([row.score for row in rows])
    return _table(config, chosen, matrix, evaluation)


def _chosen_tasks(config: RunConfig, games: tuple[str, ...] | None) -> list[TaskConfig]:
    names = [task.name for task in config.tasks]
    for game in games or ():
        if game not in names:
            hint = did_you_mean(game, names)
            raise UserError(f"this run never saw {game!r}{hint} (its games: {', '.join(names)})")
    return [task for task in config.tasks if games is None or task.name in games]


def _score(stage: Stage, task: TaskConfig, config: RunConfig, evaluation: EvaluationConfig) -> list[ScoreRow]:
    policy = able_to_play(stage.policy, task, config)
    method = make_method(config.agent.method)
    method.load_state(stage.method_state)
    episodes = evaluate_task(policy, method, task, config, evaluation, None)
    return score_rows(episodes, task, evaluation, stage.env_steps, stage.number, "after")


def _table(config: RunConfig, chosen: list[TaskConfig], matrix: np.ndarray, evaluation: EvaluationConfig) -> str:
    columns = [config.tasks.index(task) for task in chosen]
    rows = [["mean raw return", "", *(task.name for task in chosen)]]
    for stage, task in enumerate(config.tasks, start=1):
        if not np.isnan(matrix[stage - 1]).all():
            cells = ["" if np.isnan(matrix[stage - 1, c]) else f"{matrix[stage - 1, c]:.1f}" for c in columns]
            rows.append([f"learned {task.name}", f"stage {stage}", *cells])
    return "\n".join([*aligned(rows), f"{evaluation.episodes} {evaluation.actions} episodes for each cell"])
