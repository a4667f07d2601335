"""Games that can be brought back to where they were: emulators cannot be saved, but what was played can be replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class RecordedVecEnv(VecEnvWrapper):
    """Remembers every action since the last reset.

    Games are a function of their seeds and the actions taken. With both, any point is found again, without a network
    in the way: several thousand steps per second.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._played: list[npt.NDArray[Any]] = []

    def reset(self) -> VecEnvObs:
        """Begin new games and forget what was played."""
        self._played = []
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one decision in every game, and note it down."""
        self._played.append(_compact(np.array(actions)))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the decision led to."""
        return self.venv.step_wait()

    def played(self) -> npt.NDArray[Any]:
        """All actions since the last reset, (steps, num_envs, ...); whole numbers in as few bytes as hold them."""
        return np.stack(self._played) if self._played else np.zeros((0, self.num_envs), dtype=np.uint8)


def _compact(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Indices of actions in one byte each where they fit, which they do in every known game."""
    if actions.dtype.kind in "iu" and actions.size and actions.min() >= 0 and actions.max() < 256:
        return actions.astype(np.uint8)
    return actions
