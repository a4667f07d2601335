"""A run's agents as files that plain stable-baselines3 opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from gymnasium import spaces

from blip_rl.config import RunConfig, TaskConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell, CellPlayer, chosen_games, chosen_stages
from blip_rl.evaluation.episodes import FIRST_EVALUATION_SEED
from blip_rl.learner.policy import TaskModule
from blip_rl.sb3.export_model import plain_ppo, standalone
from blip_rl.storage import validation
from blip_rl.storage.atomic import replacing
from blip_rl.storage.paths import check_writable_folder
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.control import orthogonal_matrix
from blip_rl.tasks.games import rom_name
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.untrusted.machine import check_memory

_COPIES = 8  # as loaded and scaled, for policy and for values, as a state dictionary, in the file


_ATARI = """\
from ale_py import AtariVectorEnv
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = AtariVectorEnv(
    {rom!r}, num_envs=1, img_height={size}, img_width={size}, stack_num={stack}, frameskip={skip},
    repeat_action_probability={sticky}, noop_max={noop}, use_fire_reset={fire}, full_action_space={full},
    max_num_frames_per_episode={most}, episodic_life=False, reward_clipping=False, autoreset_mode="SameStep",
)
observations, _ = game.reset(seed={seed})
score, over = 0.0, False
while not over:
    actions, _ = agent.predict(observations, deterministic={greedy})
    observations, rewards, ends, cuts, _ = game.step(actions.astype("int32"))
    score, over = score + float(rewards[0]), bool(ends[0] or cuts[0])
print(score)
"""

_GYMNASIUM = """\
import gymnasium
from stable_baselines3 import PPO

agent = PPO.load({file!r}, device="cpu")
game = gymnasium.make({game!r})
observation, _ = game.reset(seed={seed})
score, over = 0.0, False
while not over:
    action, _ = agent.predict(observation, deterministic={greedy})
    observation, reward, end, cut, _ = game.step(action)
    score, over = score + float(reward), end or cut
print(score)
"""


@dataclass(frozen=True)
class Exported:
    """A file, and how it is used."""

    file: Path
    task: str
    stage: int
    usage: str


class ExportingPlayer(CellPlayer[Exported]):
    """Writes a cell's agent to a file instead of playing it."""

    def __init__(self, run: Path, config: RunConfig, file_of: Callable[[Cell], Path]) -> None:
        super().__init__(run, config, config.evaluation)
        self._file_of = file_of

    def check(self, cell: Cell) -> None:
        """Make sure that a cell can be exported, before any file is written.

        Raises:
            UserError: its agent does not fit its game, needs more memory than there is, or its file is something else.
        """
        policy, task, file = self._stage(cell.stage)[0].policy, self.task(cell), self._file_of(cell)
        if file.is_dir() and not file.is_symlink():
            raise UserError(f"'{file}' is a folder: expected a file, or nothing (remove it, or choose another --out)")
        observations, actions = _game_spaces(task, self.config)
        validation.check_agent_observations(policy, task.name, observations)
        head = cast(TaskModule, policy.tasks[policy.task_names.index(task.name)])
        validation.check_actions([(task.name, head.action_space)], [(task.name, actions)])
        size = _COPIES * validation.weight_bytes(policy)
        check_memory(f"exporting {cell}", {"copies of the network": size}, "use a machine with more")

    def play(self, cell: Cell, on_games_over: Callable[[int], object]) -> Exported:
        """Write the file; nothing is played."""
        stage, method = self._stage(cell.stage)
        task, number = self.task(cell), stage.policy.task_names.index(cell.task) + 1
        with method.playing(stage.policy.trunk, number):
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
    """Write a zip that ``stable_baselines3.PPO.load`` opens for games that an agent has learned.

    Args:
        run: A run folder.
        games: Names of the run's tasks; None takes all that the stage has learned.
        stage: After which the agent is taken; None takes the last one that is finished.
        out: A folder, or for one game a file whose name ends in ``.zip``; None takes ``export`` in the run folder.

    Returns:
        The files, in the order in which the games were learned.

    Raises:
        UserError: not a run folder, no such stage, a game that it had not learned, a damaged checkpoint or one that
            does not fit the game, or files cannot be written there; nothing has been written then.
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
    """Whether ``--out`` means a file rather than a folder."""
    return out.suffix.lower() == ".zip"


def check_new_zip(out: Path, games: Sequence[str]) -> None:
    """Make sure that one new file is what is asked for.

    Raises:
        UserError: there are several games, or the file is there already.
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
    """What the game itself shows and takes."""
    env = make_evaluation_env(task.model_copy(update={"observation_mix_seed": None}), config.atari, 1, 0)
    env.close()
    return cast(spaces.Box, env.observation_space), env.action_space


def usage(file: Path, task: TaskConfig, config: RunConfig) -> str:
    """Python code that plays the first episode of the run's evaluation with an exported agent, and prints its score."""
    atari, rom = config.atari, rom_name(task.game)
    return (_GYMNASIUM if rom is None else _ATARI).format(
        file=str(file),
        game=task.game,
        rom=rom,
        size=atari.frame_size,
        stack=atari.frame_stack,
        skip=atari.frame_skip,
        sticky=atari.sticky_action_probability,
        noop=atari.noop_max,
        fire=atari.fire_on_reset,
        full=atari.full_action_space,
        most=atari.max_episode_frames,
        seed=FIRST_EVALUATION_SEED + config.evaluation.seed,
        greedy=config.evaluation.actions == "greedy",
    )
