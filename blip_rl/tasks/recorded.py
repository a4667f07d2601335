"""Action log of environments: emulator state cannot be saved, so games are restored by replaying their actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from blip_rl.tasks.groups import GroupedVecEnv


class RecordedVecEnv(VecEnvWrapper):
    """Logs every action since the last reset.

    Games are a deterministic function of their seeds and actions. With both, their state can be restored by replay,
    which needs no network and runs at several thousand steps per second.

    Attributes:
        groups: Groups of environments that can be stepped independently; a single one if there are no groups.
    """

    def __init__(self, venv: VecEnv) -> None:
        grouped = venv if isinstance(venv, GroupedVecEnv) else GroupedVecEnv([venv])
        super().__init__(venv)
        self._grouped, self.groups = grouped, grouped.groups
        self._played: list[list[npt.NDArray[Any]]] = [[] for _ in self.groups]

    def reset(self) -> VecEnvObs:
        """Start new games and clear the log."""
        self._played = [[] for _ in self.groups]
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one step in every game and log its actions."""
        for group, where in enumerate(self.groups):
            # A copy, because the caller may reuse its array.
            self._played[group].append(_compact(np.array(actions[where])))
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the step."""
        return self.venv.step_wait()

    def step_group_async(self, group: int, actions: npt.NDArray[Any]) -> None:
        """Start one step in every game of a group and log its actions."""
        self._played[group].append(_compact(np.array(actions)))
        self._grouped.step_group_async(group, actions)

    def step_group_wait(self, group: int) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the group's step."""
        return self._grouped.step_group_wait(group)

    def action_log(self) -> npt.NDArray[Any]:
        """Return all actions since the last reset, (steps, num_envs, ...); small integers as uint8.

        Raises:
            ValueError: some groups have taken more steps than others.
        """
        if not any(self._played):
            return np.zeros((0, self.num_envs), dtype=np.uint8)
        return np.concatenate([np.stack(steps) for steps in self._played], axis=1)


def _compact(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Store action indices as uint8 if they fit, as they do in every known game."""
    if actions.dtype.kind in "iu" and actions.size and actions.min() >= 0 and actions.max() < 256:
        return actions.astype(np.uint8)
    return actions
