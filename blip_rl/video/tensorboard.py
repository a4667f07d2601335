"""The first seconds of each game at each boundary, as moving images in TensorBoard."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from blip_rl.config import RunConfig, TaskConfig
from blip_rl.console import optional_picture
from blip_rl.evaluation.episodes import ActionLog, Episode
from blip_rl.formatting import score_text
from blip_rl.video import encode
from blip_rl.video.grid import Grid, GridCell, Labels
from blip_rl.video.options import RenderOptions
from blip_rl.video.recorder import record_game
from blip_rl.video.scored import ScoredCell

_OPTIONS = RenderOptions(seconds=5.0, fps=10.0, scale=0.5)
"""Half of Atari's own size: 80 pixels wide, some tens of kilobytes."""


Played = Mapping[str, tuple[list[Episode], ActionLog]]
"""Task → its episodes at a boundary, and their actions."""


def log_boundary_gifs(logger: Logger, config: RunConfig, played: Played, env_steps: int) -> None:
    """Show a film of every game that was scored at a boundary in TensorBoard.

    The film is the scored episode whose return is nearest to their mean, played again from its seed and actions. No
    network and no random stream of the training is used: films may be switched on without changing a run.

    Args:
        logger: The run's.
        config: The run's.
        played: The games that were scored.
        env_steps: Training steps of the whole run.
    """
    for task in config.tasks:
        if task.name in played:
            with optional_picture(f"the film of {task.name} at step {env_steps:,}"):
                _log_gif(logger, f"games/{task.name}", _clip_grid(config, task, *played[task.name]), env_steps)


def _clip_grid(config: RunConfig, task: TaskConfig, episodes: list[Episode], log: ActionLog) -> Grid:
    cell = ScoredCell(tuple(config.evaluation.seed + number for number in range(len(episodes))), tuple(episodes))
    index = cell.chosen(_OPTIONS.episode)
    episode = episodes[index]
    clip = record_game(task, config, _OPTIONS, cell.seeds[index], log.games[index], episode)
    # Above and below: side by side they would not fit into the width.
    above = Labels(columns=(f"score {score_text(episode.score)}",))
    return Grid((GridCell(clip, "mean", score_text(cell.mean)),), above, _OPTIONS.fps, _OPTIONS.scale or 1.0)


def _log_gif(logger: Logger, tag: str, grid: Grid, env_steps: int) -> None:
    """Write an encoded GIF as an image: stable-baselines3's ``Image`` would take single pictures alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.gif"
        encode.save(grid, path)
        encoded = path.read_bytes()
    width, height = grid.size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            writer: Any = output.writer.file_writer
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), env_steps)
