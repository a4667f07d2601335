"""Games that can be brought back to where they were: emulators cannot be saved, but what was played can be replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from blip_rl.tasks.groups import GroupedVecEnv


class RecordedVecEnv(VecEnvWrapper):
    """Remembers every action since the last reset.

    Games are a function of their seeds and the actions taken. With both, any point is found again, without a network
    in the way: several thousand steps per second.

    Attributes:
        groups: Which games can be stepped together, on their own; all games where the environments know no groups.
    """

    def __init__(self, venv: VecEnv) -> None:
        grouped = venv if isinstance(venv, GroupedVecEnv) else GroupedVecEnv([venv])
        super().__init__(venv)
        self._grouped, self.groups = grouped, grouped.groups
        self._played: list[list[npt.NDArray[Any]]] = [[] for _ in self.groups]

    def reset(self) -> VecEnvObs:
        """Begin new games and forget what was played."""
        self._played = [[] for _ in self.groups]
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one decision in every game, and note it down."""
        for group, where in enumerate(self.groups):
            self._played[group].append(_compact(np.array(actions[where])))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the decision led to."""
        return self.venv.step_wait()

    def step_group_async(self, group: int, actions: npt.NDArray[Any]) -> None:
        """Start one decision in every game of a group, and note it down."""
        self._played[group].append(_compact(np.array(actions)))
        self._grouped.step_group_async(group, actions)

    def step_group_wait(self, group: int) -> VecEnvStepReturn:
        """Return what the group's decision led to."""
        return self._grouped.step_group_wait(group)

    def action_log(self) -> npt.NDArray[Any]:
        """All actions since the last reset, (steps, num_envs, ...); whole numbers in as few bytes as hold them.

        Raises:
            ValueError: some groups have taken a step more than others.
        """
        if not any(self._played):
            return np.zeros((0, self.num_envs), dtype=np.uint8)
        return np.concatenate([np.stack(steps) for steps in self._played], axis=1)


def _compact(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Indices of actions in one byte each where they fit, which they do in every known game."""
    if actions.dtype.kind in "iu" and actions.size and actions.min() >= 0 and actions.max() < 256:
        return actions.astype(np.uint8)
    return actions
