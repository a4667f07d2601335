"""A run's agents as files that plain stable-baselines3 opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from gymnasium import spaces

from blip_rl.config import RunConfig, TaskConfig
from blip_rl.errors import UserError
from blip_rl.run.cells import Cell, CellPlayer
from blip_rl.run.folder import RunFolder
from blip_rl.run.selection import chosen_games, chosen_stages
from blip_rl.run.standalone import plain_ppo, standalone
from blip_rl.run.usage import usage
from blip_rl.storage.atomic import replacing
from blip_rl.tasks.control import orthogonal_matrix
from blip_rl.tasks.make import make_evaluation_env


@dataclass(frozen=True)
class Exported:
    """A file, and how it is used."""

    file: Path
    task: str
    stage: int
    usage: str


class ExportingPlayer(CellPlayer[Exported]):
    """Writes a cell's agent to a file instead of playing it."""

    def __init__(self, run: Path, config: RunConfig, place: Callable[[Cell], Path]) -> None:
        super().__init__(run, config, config.evaluation)
        self._place = place

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Exported:
        """Write the file; nothing is played."""
        stage, method = self._stage(cell.stage)
        task, number = self.task(cell), stage.policy.task_names.index(cell.task) + 1
        with method.playing(stage.policy.trunk, number):
            agent = standalone(stage.policy, number, _mix(stage.policy.observation_space, task))
        model = plain_ppo(agent, *_spaces(task, self.config), self.config.agent.ppo, stage.env_steps)
        file = self._place(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside, beside.open("wb") as stream:
            model.save(stream)
        return Exported(file, cell.task, cell.stage, usage(file, task, self.config))


def export_run(
    run: Path, *, games: Sequence[str] | None = None, stage: int | None = None, out: Path | None = None
) -> list[Exported]:
    """Write a zip that ``stable_baselines3.PPO.load`` opens for games that an agent has learned.

    Args:
        run: A run folder.
        games: Names of the run's tasks; None takes all that the stage has learned.
        stage: After which the agent is taken; None takes the last one that is finished.
        out: A folder, or for one game a file whose name ends in ``.zip``; None takes ``export`` in the run folder.

    Returns:
        The files, in the order in which the games were learned.

    Raises:
        UserError: not a run folder, no such stage, a game that it had not learned, a damaged checkpoint, or ``out`` is
            a file that is there or is wanted for several games.
    """
    from blip_rl.recipes import load_run_config

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    number = chosen_stages(folder, config, None if stage is None else [stage])[-1]
    learned = [task.name for task in config.tasks][:number]
    names = learned if games is None else chosen_games(config, games)
    for name in names:
        if name not in learned:
            raise UserError(f"{name!r} had not been learned by stage {number}: expected one of {', '.join(learned)}")
    if out is not None and out.suffix == ".zip":
        check_file(out, names)
        place: Callable[[Cell], Path] = lambda cell: out  # noqa: E731
    else:
        place = lambda cell: (out or run / "export") / f"stage-{cell.stage:02d}-{cell.task}.zip"  # noqa: E731
    player = ExportingPlayer(run, config, place)
    return [player.play(Cell(number, name), lambda count: None) for name in names]


def check_file(out: Path, games: Sequence[str]) -> None:
    """Make sure that one new file is what is asked for.

    Raises:
        UserError: there are several games, or the file is there already.
    """
    if len(games) != 1:
        raise UserError(
            f"--out '{out}' is one file, but there are {len(games)} games ({', '.join(games)}): expected --games with "
            "one of them, or a folder"
        )
    if out.exists():
        raise UserError(f"--out '{out}' exists: choose another name, or remove it first")


def _mix(observations: spaces.Space[object], task: TaskConfig) -> torch.Tensor | None:
    if task.observation_mix_seed is None:
        return None
    size = cast(tuple[int, ...], observations.shape)[0]
    return torch.from_numpy(orthogonal_matrix(size, task.observation_mix_seed)).float()


def _spaces(task: TaskConfig, config: RunConfig) -> tuple[spaces.Box, spaces.Space[object]]:
    """What the game itself shows and takes."""
    env = make_evaluation_env(task.model_copy(update={"observation_mix_seed": None}), config.atari, 1, 0)
    env.close()
    return cast(spaces.Box, env.observation_space), env.action_space
