"""Export the agents of a run as zip files for stable-baselines3."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from gymnasium import spaces

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, chosen_games, chosen_stages
from blip_rl.sb3.export_model import plain_ppo, standalone
from blip_rl.sb3.usage import usage
from blip_rl.storage import validation
from blip_rl.storage.atomic import replacing
from blip_rl.storage.paths import check_writable_folder
from blip_rl.storage.run_folder import RunFolder
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.control import orthogonal_matrix
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.untrusted.machine import check_memory

_FILES = (".7z", ".bz2", ".gz", ".onnx", ".pkl", ".pt", ".pth", ".rar", ".safetensors", ".tar", ".tgz", ".xz")
_COPIES = 8  # of the weights: loaded, folded, in policy and value network, in the state dict, in the file


@dataclass(frozen=True)
class Exported:
    """An exported file and the code that plays it."""

    file: Path
    task: str
    stage: int
    usage: str


class ExportingPlayer(CellPlayer[Exported]):
    """Write the agent of a cell to a file instead of playing it."""

    def __init__(self, run: Path, config: RunConfig, file_of: Callable[[Cell], Path]) -> None:
        super().__init__(run, config, config.evaluation)
        self._file_of = file_of

    def check(self, cell: Cell) -> None:
        """Check that a cell can be exported, before any file is written.

        Raises:
            UserError: the agent does not fit the game or needs too much memory, or the output path is a folder.
        """
        policy, task, file = self._stage(cell.stage)[0].policy, self.task(cell), self._file_of(cell)
        if file.is_dir() and not file.is_symlink():
            raise UserError(
                f"'{file}' is a folder: expected a file or a new path (remove the folder or choose another --out)"
            )
        observations, actions = _game_spaces(task, self.config)
        validation.check_agent_observations(policy, task.name, observations)
        head = policy.module_of(policy.task_names.index(task.name))
        validation.check_actions([(task.name, head.action_space)], [(task.name, actions)])
        size = _COPIES * validation.weight_bytes(policy)
        check_memory(f"exporting {cell}", {"copies of the network": size}, "use a machine with more memory")

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Exported:
        """Write the file; no episode is played."""
        stage, method = self._stage(cell.stage)
        task, number = self.task(cell), stage.policy.task_names.index(cell.task) + 1
        with method.playing(stage.policy.protected, number):
            agent = standalone(stage.policy, number, _observation_mix(stage.policy.observation_space, task))
        model = plain_ppo(agent, *_game_spaces(task, self.config), self.config.agent.ppo, stage.env_steps)
        validation.check_finite_tensors(f"the agent to export, {cell},", model.policy.state_dict())
        file = self._file_of(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside, beside.open("wb") as stream:
            model.save(stream)
        return Exported(file, cell.task, cell.stage, usage(file, task, self.config))


def export_run(
    run: Path, *, games: Sequence[str] | None = None, stage: int | None = None, out: Path | None = None
) -> list[Exported]:
    """Export an agent as zip files for ``stable_baselines3.PPO.load``, one per game.

    Args:
        run: A run folder.
        games: Names of the run's tasks; None selects all that the stage has learned.
        stage: Number of the stage whose agent is exported; None: the last one with a checkpoint.
        out: A folder or, for a single game, a new file with the suffix ``.zip``; None: ``export`` in the run folder.

    Returns:
        The exported files, in the order in which the games were learned.

    Raises:
        UserError: not a run folder, an unknown stage, a game that the stage had not learned, a checkpoint that is
            damaged or does not fit the game, a network with layer normalisation, or an output path that cannot be
            written. Nothing has been written then.
    """
    from blip_rl.recipes import load_run_config

    folder = RunFolder.existing(run)
    config = load_run_config(folder.config)
    if config.agent.trunk.normalization == "layer":
        raise UserError(
            f"'{run}' has trunk.normalization = 'layer': expected 'none', because the networks of stable-baselines3's "
            "policies have no layer normalisation (play it with blip-rl evaluate, or with blip_rl.load in Python)"
        )
    number = chosen_stages(folder, config, None if stage is None else [stage])[-1]
    learned = config.seen_names(number)
    names = learned if games is None else chosen_games(config, games)
    for name in names:
        if name not in learned:
            raise UserError(f"{name!r} had not been learned by stage {number}: expected one of {', '.join(learned)}")
    if out is not None and names_a_zip(out):
        check_new_zip(out, names)
        file_of: Callable[[Cell], Path] = lambda cell: out  # noqa: E731
    else:
        target = out or run / "export"
        check_writable_folder(target)
        file_of = lambda cell: target / f"stage-{cell.stage:02d}-{cell.task}.zip"  # noqa: E731
    player = ExportingPlayer(run, config, file_of)
    cells = [Cell(number, name) for name in names]
    for cell in cells:
        player.check(cell)
    return [player.play(cell, lambda count: None) for cell in cells]


def names_a_zip(out: Path) -> bool:
    """Return whether ``--out`` names a zip file rather than a folder.

    Raises:
        UserError: it names a file of another format.
    """
    if out.suffix.lower() in _FILES and not out.is_dir():
        raise UserError(
            f"--out '{out}' ends in {out.suffix}: expected a folder or, for a single game, a new .zip file, the only "
            "format that stable-baselines3 loads"
        )
    return out.suffix.lower() == ".zip"


def check_new_zip(out: Path, games: Sequence[str]) -> None:
    """Check that a single new file is requested.

    Raises:
        UserError: several games are selected, or the file exists.
    """
    if len(games) != 1:
        raise UserError(
            f"--out '{out}' is one file, but there are {len(games)} games ({', '.join(games)}): expected --games with "
            "one of them, or a folder"
        )
    if os.path.lexists(out):
        raise UserError(f"--out '{out}' exists: choose another name, or remove it first")


def _observation_mix(observations: spaces.Space[object], task: TaskConfig) -> torch.Tensor | None:
    if task.observation_mix_seed is None:
        return None
    size = cast(tuple[int, ...], observations.shape)[0]
    return torch.from_numpy(orthogonal_matrix(size, task.observation_mix_seed)).float()


def _game_spaces(task: TaskConfig, config: RunConfig) -> tuple[spaces.Box, spaces.Space[object]]:
    """Return the observation and action space of the game without the mixing of observations."""
    env = make_evaluation_env(task.model_copy(update={"observation_mix_seed": None}), config.atari, 1, 0)
    env.close()
    return cast(spaces.Box, env.observation_space), env.action_space
