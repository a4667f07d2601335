"""Construction of the training and evaluation environments of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blip_rl.config import ALE_EPISODE_FRAMES, AtariConfig
from blip_rl.errors import UserError
from blip_rl.task_schedule import MinatarConfig, TaskConfig
from blip_rl.tasks.games import check_game, rom_name
from blip_rl.tasks.minatar_names import minatar_game

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def make_training_env(task: TaskConfig, atari: AtariConfig, num_envs: int, seed: int, groups: int = 1) -> VecEnv:
    """Build ``num_envs`` copies of the task's game for training, with clipped rewards and lost lives as configured.

    Args:
        task: Game, settings of MinAtar, wrappers, and observation mixing.
        atari: Preprocessing of Atari games.
        num_envs: Number of copies.
        seed: Copy ``i`` is seeded with ``seed + i`` at the first reset.
        groups: Number of groups that can be stepped independently.

    Raises:
        UserError: the game is unknown, cannot be made, or does not fit the task's settings; or a seed out of range.
    """
    if groups == 1:
        return _make(task, atari, num_envs, seed, training=True)
    from blip_rl.tasks.groups import GroupedVecEnv, group_sizes

    members, first = [], seed
    for size in group_sizes(num_envs, groups):
        members.append(_make(task, atari, size, first, training=True, first_environment=first - seed))
        first += size
    return GroupedVecEnv(members)


def make_evaluation_env(task: TaskConfig, atari: AtariConfig, num_envs: int, seed: int) -> VecEnv:
    """Build ``num_envs`` copies of the task's game for evaluation, with raw rewards and whole games as episodes.

    Arguments and errors are those of :func:`make_training_env`, without groups.
    """
    return _make(task, atari, num_envs, seed, training=False)


def has_lowered_time_limit(task: TaskConfig, atari: AtariConfig) -> bool:
    """Return whether the recipe sets a lower time limit than the environment's own.

    The environment's own limit is part of the game, and reference scores are measured with it. For Atari it is ALE's
    108,000 frames, which the recipe may lower.
    """
    return rom_name(check_game(task.game)) is not None and atari.max_episode_frames < ALE_EPISODE_FRAMES


def _make(
    task: TaskConfig, atari: AtariConfig, num_envs: int, seed: int, *, training: bool, first_environment: int = 0
) -> VecEnv:
    from blip_rl.tasks.game_errors import NamedVecEnv, naming

    game = check_game(task.game)
    with naming(game, seed, num_envs):
        games = _make_game(game, task, atari, num_envs, seed, training=training)
        return NamedVecEnv(games, game, seed, first_environment)


def _make_game(game: str, task: TaskConfig, atari: AtariConfig, num_envs: int, seed: int, *, training: bool) -> VecEnv:
    minatar = minatar_game(game)
    if task.flavour is not None and (minatar is not None or rom_name(game) is None):
        setting = "mode" if task.mode is not None else "difficulty"
        raise UserError(
            f"task {task.name!r}: {setting} = {getattr(task, setting)} is a setting of Atari games, but {game!r} is "
            "none (remove it)"
        )
    if minatar is None and rom_name(game) is None:
        from blip_rl.tasks.control import make_control_env

        return make_control_env(game, num_envs, seed, task.observation_mix_seed, task.wrappers)
    if task.wrappers:
        raise UserError(
            f"task {task.name!r}: wrappers = [{task.wrappers[0].wrapper!r}, …] apply to Gymnasium environments, but "
            f"{game!r} is a game of {'Atari' if minatar is None else 'MinAtar'}, all copies of which are stepped "
            "together without them (remove them)"
        )
    if task.observation_mix_seed is not None:
        raise UserError(
            f"task {task.name!r}: observation_mix_seed = {task.observation_mix_seed} mixes vectors, "
            f"but {game!r} shows images (remove it)"
        )
    if minatar is not None:
        from blip_rl.tasks.minatar import MinatarVecEnv

        return MinatarVecEnv(minatar, num_envs, seed, task.minatar or MinatarConfig())
    from blip_rl.tasks.atari import AtariVecEnv

    return AtariVecEnv(game, num_envs, seed, atari, training=training, flavour=task.flavour)
