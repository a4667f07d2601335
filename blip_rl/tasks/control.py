"""Gymnasium environments as a stable-baselines3 ``VecEnv``, optionally with mixed observations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage

from blip_rl.errors import UserError
from blip_rl.tasks.games import check_game
from blip_rl.tasks.seeds import check_seed
from blip_rl.tasks.wrappers import apply_wrappers
from blip_rl.wrapper_config import GYMNASIUM_WRAPPERS, WrapperConfig

Env = gymnasium.Env[Any, Any]

_LONGEST_SPACE = 200  # characters in a message


def make_control_env(
    game: str,
    num_envs: int,
    seed: int,
    observation_mix_seed: int | None = None,
    wrappers: Iterable[WrapperConfig] = (),
) -> VecEnv:
    """Return ``num_envs`` monitored copies of a Gymnasium environment; copy ``i`` is seeded with ``seed + i``.

    Args:
        game: A registered Gymnasium id.
        num_envs: Copies, stepped sequentially.
        seed: Used at the first reset. Images with channels last are transposed to channels first.
        observation_mix_seed: If set, observations x become Q·x, Q an orthogonal matrix drawn with this seed. The
            dynamics stay the same, so this makes families of related tasks.
        wrappers: Applied to each copy, the first innermost, before observations are mixed.

    Raises:
        UserError: unknown id, a missing dependency, an invalid wrapper, spaces that cannot be learned from, or a seed
            out of range.
    """
    check_game(game)
    check_seed(seed, num_envs)
    envs: VecEnv = DummyVecEnv([lambda: Monitor(_make(game, observation_mix_seed, tuple(wrappers)))] * num_envs)
    space = envs.observation_space
    if isinstance(space, Box) and is_image_space(space) and not is_image_space_channels_first(space):
        envs = VecTransposeImage(envs)
    envs.seed(seed)
    return envs


def orthogonal_matrix(size: int, seed: int) -> npt.NDArray[np.float64]:
    """Draw an orthogonal matrix, (size, size), from the Haar (uniform) distribution; deterministic for a seed.

    The QR decomposition of a Gaussian matrix alone is not uniform: the signs of R's diagonal must be moved into Q
    (Mezzadri 2007, "How to generate random matrices from the classical compact groups").
    """
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))


def _make(game: str, observation_mix_seed: int | None, wrappers: tuple[WrapperConfig, ...]) -> Env:
    try:
        env: Env = gymnasium.make(game)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"game {game!r} cannot be made: {error}") from error
    env = apply_wrappers(env, wrappers, game)
    _check_actions(game, env.action_space)
    if observation_mix_seed is None:
        _check_observations(game, env.observation_space)
        return env
    return _mixed(game, env, observation_mix_seed)


def _mixed(game: str, env: Env, seed: int) -> Env:
    space = env.observation_space
    if not _is_vector(space):
        raise UserError(
            f"game {game!r} has observations {space}: only vectors (one-dimensional Box) can be mixed "
            "(remove observation_mix_seed)"
        )
    assert space.shape is not None
    matrix = orthogonal_matrix(space.shape[0], seed).astype(np.float32)
    unbounded = Box(-np.inf, np.inf, space.shape, np.float32)
    return TransformObservation(env, lambda x: matrix @ np.asarray(x, dtype=np.float32), unbounded)


def _check_observations(game: str, space: Space[Any]) -> None:
    if not (_is_vector(space) or _is_image(space)):
        raise UserError(
            f"game {game!r} has observations {_shortened(space)}: expected vectors (one-dimensional Box) or images "
            f"(uint8 Box, height x width x channels); {_observation_fix(space)}"
        )


def _observation_fix(space: Space[Any]) -> str:
    wrappers = [f'"{GYMNASIUM_WRAPPERS}:FlattenObservation"']
    if not _can_be_flattened(space):
        keys = [key for key, part in space.items() if _can_be_flattened(part)] if isinstance(space, Dict) else []
        if not keys:
            return "choose another game, or give the task a wrapper that makes vectors of them in a sequence recipe"
        kept = ", ".join(f'"{key}"' for key in keys)
        wrappers.insert(0, f'{{ wrapper = "{GYMNASIUM_WRAPPERS}:FilterObservation", filter_keys = [{kept}] }}')
    return f"give the task wrappers = [{', '.join(wrappers)}] in a sequence recipe, or choose another game"


def _can_be_flattened(space: Space[Any]) -> bool:
    try:
        return bool(space.is_np_flattenable)
    except NotImplementedError:  # custom spaces, such as MiniGrid's MissionSpace
        return False


def _shortened(space: Space[Any]) -> str:
    text = str(space)
    return text if len(text) <= _LONGEST_SPACE else f"{text[: _LONGEST_SPACE - 1]}…"


def _check_actions(game: str, space: Space[Any]) -> None:
    if not (isinstance(space, Box) or (isinstance(space, Discrete) and space.start == 0)):
        raise UserError(
            f"game {game!r} has actions {space}: expected Discrete counted from 0, or Box; "
            "choose another game, or a wrapper for the task that changes them"
        )


def _is_vector(space: Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


def _is_image(space: Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8
