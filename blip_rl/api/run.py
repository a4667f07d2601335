"""A run folder as an object."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from blip_rl.api import arguments
from blip_rl.api.loading import loading
from blip_rl.api.scores import Scores
from blip_rl.errors import UserError

if TYPE_CHECKING:
    from blip_rl.api.metrics import Metrics
    from blip_rl.config import RunConfig
    from blip_rl.evaluation.agent import Agent


class Run(os.PathLike[str]):
    """A run folder: its configuration, scores, metrics and agents. Every function that takes a path accepts it.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Run '{self.path}'>"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration, as in ``config.toml``."""
        with loading():
            from blip_rl.recipes import load_run_config
        return load_run_config(self.path)

    @property
    def scores(self) -> Scores:
        """All evaluation episodes so far, from ``scores.csv``.

        Raises:
            UserError: The file is missing or damaged.
        """
        from blip_rl.storage.run_folder import RunFolder

        return Scores(RunFolder(self.path).read_scores())

    @property
    def stages(self) -> list[int]:
        """Numbers of the stages that have a checkpoint, counted from 1."""
        from blip_rl.storage.run_folder import RunFolder

        return RunFolder(self.path).stages()

    def metrics(self, *, normalised: bool = True) -> Metrics:
        """Compute ACC, worst game, BWT and forgetting from the scores after each stage.

        Args:
            normalised: Use scores with random play = 0 and the reference = 1, of the games that have such scores; False
                uses the raw returns of all games.

        Raises:
            UserError: ``scores.csv`` is missing, damaged, or of another run.
        """
        arguments.flag("normalised", normalised)
        from blip_rl.api.metrics import run_metrics
        from blip_rl.reporting.scores import load_scores

        return run_metrics(self.config, load_scores(self.path), normalised=normalised)

    def agent(self, *, stage: int | None = None, game: str | None = None) -> Agent:
        """Load the agent of a stage to play one of its games.

        Args:
            stage: Number of the stage, counted from 1; None: the last one that has a checkpoint.
            game: A game that it has learned; None: the one that it learned last.

        Raises:
            UserError: There is no such stage, the agent has not learned the game, or the checkpoint is damaged.
        """
        if stage is not None:
            arguments.whole("stage", stage, 1, 10**6)
        if game is not None and not isinstance(game, str):
            raise UserError(f"game = {arguments.shown(game)}: expected the name of a game of the run")
        with loading():
            from blip_rl.evaluation.agent import load_agent
        return load_agent(self.path, self.config, stage, game)


def load(path: str | os.PathLike[str]) -> Run:
    """Open a run folder, finished or not, or download a published run from the Hugging Face Hub.

    Args:
        path: A folder that training created, or ``"hf:user/name"``, with ``@revision`` for a branch, a tag or a commit.
            Only the recipe, the tables and the checkpoints are downloaded (``~/.cache/blip-rl/hub``), within bounds,
            and none of it is run as code.

    Raises:
        UserError: It is not a run folder, or its ``config.toml`` is invalid; the Hub has no such run, or the extra
            ``hub`` is not installed.
        RunError: The Hub cannot be reached.
    """
    from blip_rl.storage.paths import check_run

    folder = arguments.path("path", path)
    if isinstance(path, str) and path.startswith("hf:"):
        with loading():
            from blip_rl.sharing.hub import fetch
        folder = fetch(path)
    check_run(folder)
    run = Run(folder)
    _ = run.config  # validates it
    return run
