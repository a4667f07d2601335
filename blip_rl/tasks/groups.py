"""Groups of environments that can be stepped independently, to overlap emulation with inference.

Callers of ``step`` see one ``VecEnv``, the same as without groups: environment ``i`` has the seed ``seed + i`` and row
``i`` of every array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

Array = npt.NDArray[Any]


class GroupedVecEnv(VecEnv):
    """Several ``VecEnv`` of one game as one, each of which can also be stepped alone.

    Attributes:
        groups: Indices of the environments in each group, in order.
    """

    def __init__(self, members: Sequence[VecEnv]) -> None:
        """Combine environments, in order.

        Args:
            members: One ``VecEnv`` per group, all with the same spaces.
        """
        self._members = list(members)
        ends = np.cumsum([member.num_envs for member in self._members]).tolist()
        self.groups = [slice(end - m.num_envs, end) for end, m in zip(ends, self._members, strict=True)]
        first = self._members[0]
        super().__init__(ends[-1], first.observation_space, first.action_space)

    def step_group_async(self, group: int, actions: Array) -> None:
        """Start one step in every environment of a group; ``actions`` has one row per environment."""
        self._members[group].step_async(actions)

    def step_group_wait(self, group: int) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the group's step."""
        return self._members[group].step_wait()

    def step_async(self, actions: Array) -> None:
        """Start one step in all environments."""
        for group, where in enumerate(self.groups):
            self.step_group_async(group, actions[where])

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the step in all environments."""
        parts = [self.step_group_wait(group) for group in range(len(self.groups))]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([cast(Array, part[0]) for part in parts]), *concatenate_outcomes(parts)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Give environment ``i`` the seed ``seed + i`` from the next reset on; ``None``: random seeds."""
        given = []
        for where, member in zip(self.groups, self._members, strict=True):
            given += list(member.seed(None if seed is None else seed + where.start))
        return given

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        observations = np.concatenate([cast(Array, member.reset()) for member in self._members])
        self.reset_infos = [info for member in self._members for info in member.reset_infos]
        return observations

    def close(self) -> None:
        """Close every group."""
        for member in self._members:
            member.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute of each selected environment."""
        return [member.get_attr(attr_name, place)[0] for member, place in self._places(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the selected environments; None selects all."""
        if indices is None:
            for member in self._members:
                member.set_attr(attr_name, value)
            return
        for member, place in self._places(indices):
            member.set_attr(attr_name, value, place)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each selected environment."""
        return [
            member.env_method(method_name, *method_args, indices=place, **method_kwargs)[0]
            for member, place in self._places(indices)
        ]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return for each selected environment whether it has this wrapper."""
        return [member.env_is_wrapped(wrapper_class, place)[0] for member, place in self._places(indices)]

    def _places(self, indices: VecEnvIndices) -> list[tuple[VecEnv, int]]:
        """List group and index within it of every selected environment."""
        everyone = [(member, place) for member in self._members for place in range(member.num_envs)]
        return [everyone[index] for index in self._get_indices(indices)]


def concatenate_outcomes(parts: Sequence[VecEnvStepReturn]) -> tuple[Array, Array, list[dict[str, Any]]]:
    """Concatenate rewards, dones and infos of all groups; those of a single group are not copied."""
    _, rewards, dones, infos = zip(*parts, strict=True)
    if len(parts) == 1:
        return rewards[0], dones[0], infos[0]
    return np.concatenate(rewards), np.concatenate(dones), [info for group in infos for info in group]


def group_sizes(environments: int, groups: int) -> list[int]:
    """Split environments into groups of nearly equal size, the larger ones first."""
    return [environments // groups + (index < environments % groups) for index in range(groups)]
