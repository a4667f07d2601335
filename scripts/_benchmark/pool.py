"""EnvPool's games under stable-baselines3, where EnvPool is installed: it is no dependency of this project."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.tasks.games import rom_name


def envpool_missing() -> str | None:
    """Why EnvPool cannot be used; None if it can."""
    try:
        import_module("envpool")
    except (ImportError, OSError) as error:  # an incomplete installation raises FileNotFoundError
        return f"not measured: {error} (pip install envpool)"
    return None


def envpool_env(config: RunConfig) -> VecEnv:
    """The recipe's first game, preprocessed in EnvPool's C++."""
    rom, atari = rom_name(config.tasks[0].game), config.atari
    assert rom is not None
    games = config.agent.ppo.environments
    pool = import_module("envpool").make(
        f"{rom.title().replace('_', '')}-v5",
        env_type="gymnasium",
        num_envs=games,
        seed=0,
        img_height=atari.frame_size,
        img_width=atari.frame_size,
        stack_num=atari.frame_stack,
        frame_skip=atari.frame_skip,
        noop_max=atari.noop_max,
        use_fire_reset=atari.fire_on_reset,
        episodic_life=atari.lost_life_ends_episode,
        reward_clip=atari.clip_rewards,
        repeat_action_probability=atari.sticky_action_probability,
        full_action_space=atari.full_action_space,
        max_episode_steps=atari.max_episode_frames // atari.frame_skip,
    )
    return EnvPoolVecEnv(pool, games)


class EnvPoolVecEnv(VecEnv):
    """The usual adapter: EnvPool begins an episode with the step after the last, stable-baselines3 wants it at once."""

    render_mode: str | None = None

    def __init__(self, pool: Any, games: int) -> None:
        self._pool = pool
        super().__init__(games, pool.observation_space, pool.action_space)

    def reset(self) -> np.ndarray:
        """Begin all games."""
        return self._pool.reset()[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Hand the actions to EnvPool's threads."""
        self._pool.send(actions.astype(np.int32))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Collect, and begin again what has ended."""
        observations, rewards, terminated, truncated, _ = self._pool.recv()
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if dones.any():
            ended = np.flatnonzero(dones).astype(np.int32)
            last = observations[ended]
            observations = observations.copy()
            observations[ended] = self._pool.reset(ended)[0]
            for index, final in zip(ended.tolist(), last, strict=True):
                cut = bool(truncated[index] and not terminated[index])
                infos[index] = {"terminal_observation": final, "TimeLimit.truncated": cut}
        return observations, rewards, dones, infos

    def close(self) -> None:
        """End EnvPool's threads."""
        self._pool.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every game."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the games live in C++."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Refuse: the games live in C++."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No Python wrappers."""
        return [False] * self.num_envs
