"""Which games and stages of a finished run are meant."""

from __future__ import annotations

from collections.abc import Sequence

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.storage.paths import named_games
from blip_rl.storage.run_folder import RunFolder


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
