"""Environments in groups that take turns: while one group's games are played, actions are chosen for the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch import Tensor

from blip_rl.learner.cuda_graph import CapturedFunction
from blip_rl.learner.distributions import sample
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.rollout import Rollout
from blip_rl.tasks.groups import GroupedVecEnv
from blip_rl.tasks.recorded import RecordedVecEnv

Chosen = tuple[Tensor, Tensor, Tensor]
"""Actions, values and log-probabilities."""
Outcome = tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Rewards, ends and infos."""


class GroupActor:
    """One group of environments and how its actions are chosen."""

    def __init__(self, number: int, where: slice, policy: ContinualPolicy) -> None:
        self.number, self.where, self._policy = number, where, policy

    def choose(self, rollout: Rollout, step: int, observations: np.ndarray) -> np.ndarray:
        """Choose the group's actions at a step and keep in the rollout what was seen and chosen."""
        chosen = self._chosen(rollout, step, observations)
        rollout.keep(step, self.where, *chosen)
        return self._policy.within_bounds(chosen[0].cpu().numpy())

    def _chosen(self, rollout: Rollout, step: int, observations: np.ndarray) -> Chosen:
        with torch.no_grad():
            return cast(Chosen, self._policy(rollout.observe(step, self.where, torch.from_numpy(observations))))


class StagingBuffer:
    """The place on the device where the newest observations of some environments are: always the same memory.

    Attributes:
        tensor: What the last :meth:`put` brought, (environments, ...) of the space's type.
    """

    def __init__(self, environments: int, space: spaces.Box, device: torch.device) -> None:
        host = torch.from_numpy(np.zeros((environments, *space.shape), dtype=space.dtype))
        self.tensor = torch.zeros_like(host, device=device)
        # From memory that the system may move, a copy to a GPU is made twice and waited for.
        self._host = host.pin_memory() if device.type == "cuda" else None
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def put(self, observations: np.ndarray) -> Tensor:
        """Bring these observations to the device; the array is free again on return, the copy may still be under way.

        What is asked of the device next, on the same stream, finds them there.
        """
        given = torch.from_numpy(observations)
        if self._host is None or self._copied is None:
            return self.tensor.copy_(given)
        self._copied.synchronize()  # the copy before may still be reading; almost always it is long done
        self._host.copy_(given)
        self.tensor.copy_(self._host, non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self.tensor.device))
        return self.tensor


class StagedActor(GroupActor):
    """A group whose observations cross to a device first, once, to where a recording finds them."""

    def __init__(self, number: int, where: slice, policy: ContinualPolicy, capture: bool) -> None:
        super().__init__(number, where, policy)
        space = cast(spaces.Box, policy.observation_space)
        self._staging = StagingBuffer(where.stop - where.start, space, policy.device)
        self._captured = (
            CapturedFunction(lambda: sample(policy, self._staging.tensor), policy.device) if capture else None
        )

    def _chosen(self, rollout: Rollout, step: int, observations: np.ndarray) -> Chosen:
        seen = self._staging.put(observations)
        rollout.observe(step, self.where, seen)
        return sample(self._policy, seen) if self._captured is None else self._captured.run()


class Collector:
    """All environments of a task, for as long as it is in use."""

    def __init__(self, env: VecEnv, policy: ContinualPolicy, capture: bool) -> None:
        """Find the environments' groups, if they have any.

        Args:
            env: The task's environments.
            policy: Has the task in use.
            capture: Whether to record how actions are chosen.
        """
        self.env = env
        self._grouped = env if isinstance(env, GroupedVecEnv | RecordedVecEnv) else GroupedVecEnv([env])
        self._showing: list[np.ndarray] = []  # to each group
        self._actors = [
            self._make_actor(number, where, policy, capture) for number, where in enumerate(self._grouped.groups)
        ]

    @staticmethod
    def _make_actor(number: int, where: slice, policy: ContinualPolicy, capture: bool) -> GroupActor:
        if capture or policy.device.type != "cpu":
            return StagedActor(number, where, policy, capture)
        return GroupActor(number, where, policy)

    @property
    def observations(self) -> np.ndarray:
        """What every environment shows now, (environments, ...)."""
        return self._showing[0] if len(self._actors) == 1 else np.concatenate(self._showing)

    def collect(self, rollout: Rollout, observations: np.ndarray) -> Iterator[Outcome]:
        """Play the rollout's steps one by one; each comes when every group has finished it.

        Every action is chosen by the policy as it is now for the observation as it is now: nothing is stale. When a
        step comes, all groups but the last have begun the next one: call
        :meth:`finish_started_step` to stop early.

        Args:
            rollout: Where to keep what is seen and chosen.
            observations: What the environments show at first, (environments, ...).
        """
        self._showing = [observations[actor.where] for actor in self._actors]
        *ahead, last = self._actors
        for actor in ahead:
            self._begin(actor, rollout, 0)
        for step in range(rollout.buffer_size):
            self._begin(last, rollout, step)
            results = []
            for actor in ahead:
                results.append(self._finish(actor))
                if step + 1 < rollout.buffer_size:
                    self._begin(actor, rollout, step + 1)
            yield _outcome([*results, self._finish(last)])

    def finish_started_step(self, rollout: Rollout) -> None:
        """Play the step that some groups have begun to its end in all of them; it does not count."""
        step = rollout.pos + 1
        if len(self._actors) > 1 and step < rollout.buffer_size:
            self._begin(self._actors[-1], rollout, step)
            for actor in self._actors:
                self._finish(actor)

    def _begin(self, actor: GroupActor, rollout: Rollout, step: int) -> None:
        actions = actor.choose(rollout, step, self._showing[actor.number])
        self._grouped.step_group_async(actor.number, actions)

    def _finish(self, actor: GroupActor) -> VecEnvStepReturn:
        result = self._grouped.step_group_wait(actor.number)
        self._showing[actor.number] = cast(np.ndarray, result[0])
        return result


def _outcome(results: list[VecEnvStepReturn]) -> Outcome:
    """Rewards, ends and infos of all groups, in the order of the environments."""
    _, rewards, dones, infos = zip(*results, strict=True)
    if len(results) == 1:
        return rewards[0], dones[0], infos[0]
    return np.concatenate(rewards), np.concatenate(dones), [info for group in infos for info in group]
