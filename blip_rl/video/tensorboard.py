"""Log clips of the first seconds of each game at task boundaries."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from stable_baselines3.common.logger import Logger

from blip_rl.config import RunConfig
from blip_rl.console import optional_picture
from blip_rl.evaluation.episodes import Episode, EpisodeActions
from blip_rl.formatting import score_text
from blip_rl.task_schedule import TaskConfig
from blip_rl.tracking.values import NOT_AS_TEXT, Film
from blip_rl.video import encode
from blip_rl.video.grid import Grid, GridCell, Labels
from blip_rl.video.options import RenderOptions
from blip_rl.video.recorder import record_game
from blip_rl.video.scored import ScoredCell

_OPTIONS = RenderOptions(seconds=5.0, fps=10.0, scale=0.5)
"""Half the native Atari size: 80 pixels wide, some tens of kilobytes per clip."""


Played = Mapping[str, tuple[list[Episode], EpisodeActions]]
"""Task → its evaluated episodes at a boundary and their actions."""


def log_boundary_gifs(logger: Logger, config: RunConfig, played: Played, env_steps: int) -> None:
    """Log a clip of every game that was evaluated at a task boundary.

    A clip shows the evaluated episode whose return is nearest to the mean, replayed from its seed and actions. It uses
    neither the network nor a random generator of the training, so logging clips does not change a run.

    Args:
        logger: Logger of the run.
        config: Configuration of the run.
        played: The evaluated games.
        env_steps: Training steps of the whole run so far.
    """
    for task in config.tasks:
        if task.name in played:
            with optional_picture(f"the video of {task.name} at step {env_steps:,}"):
                logger.record(f"games/{task.name}", _film(_clip_grid(config, task, *played[task.name])), NOT_AS_TEXT)
    logger.dump(env_steps)


def _clip_grid(config: RunConfig, task: TaskConfig, episodes: list[Episode], log: EpisodeActions) -> Grid:
    cell = ScoredCell(tuple(config.evaluation.seed + number for number in range(len(episodes))), tuple(episodes))
    index = cell.chosen(_OPTIONS.episode)
    episode = episodes[index]
    clip = record_game(task, config, _OPTIONS, cell.seeds[index], log.games[index], episode)
    # Score above and mean below the clip: side by side they are too wide.
    above = Labels(columns=(f"score {score_text(episode.score)}",))
    return Grid((GridCell(clip, "mean", score_text(cell.mean)),), above, _OPTIONS.fps, _OPTIONS.scale or 1.0)


def _film(grid: Grid) -> Film:
    """Encode a grid as a GIF."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.gif"
        encode.save(grid, path)
        return Film(path.read_bytes(), grid.size)
