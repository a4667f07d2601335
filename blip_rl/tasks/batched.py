"""What vector environments that step all their games themselves have in common."""

from __future__ import annotations

import time
from collections.abc import Sized
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete, Space
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from blip_rl.tasks.seeds import check_seed

Info = dict[str, Any]


class BatchedVecEnv(VecEnv):
    """Base class: copies of one game with seeds of their own, raw returns, and no Python object for each copy.

    When a game is over, ``infos[i]["episode"]`` holds its raw return ``r``, its length ``l`` in decisions and the
    seconds ``t`` since construction, as ``Monitor`` reports them; the next game starts within the same step.
    """

    render_mode: str | None = None

    def __init__(self, num_envs: int, observation_space: Space[Any], action_space: Discrete) -> None:
        self._begun = time.perf_counter()
        self._returns: npt.NDArray[Any] = np.zeros(num_envs, dtype=np.int64)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        super().__init__(num_envs, observation_space, action_space)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Give game ``i`` the seed ``seed + i`` (drawn at random if ``None``) from the next reset on.

        A seed determines all that a game draws, in it and in the games after it until the next seed.

        Raises:
            UserError: a seed out of range.
        """
        if seed is None:  # the base class would draw 32 bits, but the emulator takes 31
            seed = int(np.random.default_rng().integers(2**31 - self.num_envs))
        super().seed(check_seed(seed, self.num_envs))
        return self._seeds

    def _game_over(self, index: int, last_observation: npt.NDArray[np.uint8], truncated: bool) -> Info:
        seconds = round(time.perf_counter() - self._begun, 6)
        episode = {"r": float(self._returns[index]), "l": int(self._lengths[index]), "t": seconds}
        return {"episode": episode, "terminal_observation": last_observation, "TimeLimit.truncated": truncated}

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return this object's attribute once per selected game: games have no Python objects of their own."""
        return [getattr(self, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all games.

        Raises:
            AttributeError: ``indices`` names only some of the games.
        """
        if self._count(indices) != self.num_envs:
            raise AttributeError(f"{attr_name!r}: the games share all attributes, it cannot be set for some of them")
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Raise, because games have no Python methods.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"{method_name!r}: games of {type(self).__name__} have no Python methods")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return True for ``Monitor``, whose episode report is built in, and False for all other wrappers."""
        return [wrapper_class is Monitor] * self._count(indices)

    def _count(self, indices: VecEnvIndices) -> int:
        selected = self._get_indices(indices)
        return len(selected if isinstance(selected, Sized) else list(selected))
