"""The first seconds of each game at each boundary, as moving images in TensorBoard."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from blip_rl.config import RunConfig
from blip_rl.report import gifs, movies
from blip_rl.run.cells import Cell
from blip_rl.run.filming import FilmingPlayer
from blip_rl.run.look import Look
from blip_rl.run.pictures import optional_picture

_LOOK = Look(episodes=1, seconds=5.0, fps=10.0, scale=0.5)
"""Half of Atari's own size: 80 pixels wide, some tens of kilobytes."""
_MOST_DECISIONS = 300
"""Five seconds of any game; playing on would only cost time."""


def log_boundary_gifs(logger: Logger, run: Path, config: RunConfig, stage: int, env_steps: int) -> None:
    """Film every game learned by a stage from its checkpoint, and show the films in TensorBoard at ``env_steps``.

    Training's random streams stay as they are: films may be switched on without changing a run.

    Args:
        logger: The run's.
        run: Its folder; the stage's checkpoint is there.
        config: The run's.
        stage: Number of the stage just finished.
        env_steps: Training steps of the whole run.
    """
    most = min(_MOST_DECISIONS, config.evaluation.max_episode_steps)
    short = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_episode_steps": most})})
    numpy_state = np.random.get_state()  # noqa: NPY002  stable-baselines3 draws from this one
    try:
        with torch.random.fork_rng():  # a checkpoint's network is initialised before it is filled
            player = FilmingPlayer(run, short, _LOOK)
            for task in config.tasks[:stage]:
                with optional_picture(f"the film of {task.name} after task {stage}"):
                    _log_gif(logger, f"games/{task.name}", _film(player, Cell(stage, task.name)), env_steps)
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002


def _film(player: FilmingPlayer, cell: Cell) -> gifs.Sheet:
    take = player.play(cell, lambda count: None)
    caption = f"after task {cell.stage}"
    return gifs.Sheet((gifs.Cell(take.film, caption, ""),), gifs.Labels(), _LOOK.fps, _LOOK.scale or 1.0)


def _log_gif(logger: Logger, tag: str, sheet: gifs.Sheet, env_steps: int) -> None:
    """Write an encoded GIF as an image: stable-baselines3's ``Image`` would take single pictures alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.gif"
        movies.save(sheet, path)
        encoded = path.read_bytes()
    width, height = sheet.size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            writer: Any = output.writer.file_writer
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), env_steps)
