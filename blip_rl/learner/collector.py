"""Rollout collection from groups of environments, overlapping emulation with inference.

While the emulator steps one group, the network chooses actions for the other. With a single group this is the plain
loop: choose, step, choose, step.
"""

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
from blip_rl.tasks.groups import GroupedVecEnv, concatenate_outcomes
from blip_rl.tasks.recorded import RecordedVecEnv

Chosen = tuple[Tensor, Tensor, Tensor]
"""Actions, V(s) and log π(a|s) of one group."""
Outcome = tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Rewards, dones and infos of all environments."""


class GroupActor:
    """Chooses the actions of one group of environments.

    Attributes:
        number: Index of the group.
        where: Indices of its environments.
    """

    def __init__(self, number: int, where: slice, policy: ContinualPolicy) -> None:
        self.number, self.where, self._policy = number, where, policy

    def choose(self, rollout: Rollout, step: int, observations: np.ndarray) -> np.ndarray:
        """Choose actions for one step and store observations, actions, values and log-probabilities in the rollout.

        Returns:
            Actions as the environments take them, (environments, ...).
        """
        chosen = self._chosen(rollout, step, observations)
        rollout.store_actions(step, self.where, *chosen)
        # The one host synchronisation of a step: the emulator needs the actions. Values and log-probabilities stay on
        # the device until GAE reads them there. Clipped actions go to the emulator only: like stable-baselines3, the
        # rollout stores the unclipped sample, which is what log π(a|s) belongs to.
        return self._policy.within_bounds(chosen[0].cpu().numpy())

    def _chosen(self, rollout: Rollout, step: int, observations: np.ndarray) -> Chosen:
        # On the CPU through stable-baselines3's forward: with its sampling a seed gives the same actions as its PPO.
        with torch.no_grad():
            stored = rollout.store_observations(step, self.where, torch.from_numpy(observations))
            return cast(Chosen, self._policy(stored))


class StagingBuffer:
    """A fixed device buffer for the newest observations of one group, filled through pinned host memory.

    Its address never changes, which a captured CUDA graph requires of its inputs.

    Attributes:
        tensor: The observations of the last :meth:`put`, (environments, ...), dtype of the space.
    """

    def __init__(self, environments: int, space: spaces.Box, device: torch.device) -> None:
        host = torch.from_numpy(np.zeros((environments, *space.shape), dtype=space.dtype))
        self.tensor = torch.zeros_like(host, device=device)
        # Pageable memory forces a synchronous copy by way of a driver buffer; pinned memory allows an asynchronous one.
        self._host = host.pin_memory() if device.type == "cuda" else None
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def put(self, observations: np.ndarray) -> Tensor:
        """Copy observations to the device, asynchronously on CUDA.

        The array may be reused on return. Work submitted to the same stream afterwards sees the observations.
        """
        given = torch.from_numpy(observations)
        if self._host is None or self._copied is None:
            return self.tensor.copy_(given)
        self._copied.synchronize()  # the previous copy may still read the pinned buffer; it has nearly always finished
        self._host.copy_(given)
        self.tensor.copy_(self._host, non_blocking=True)
        # An event instead of a stream synchronisation: only the next put waits, and only for this copy.
        self._copied.record(torch.cuda.current_stream(self.tensor.device))
        return self.tensor


class StagedActor(GroupActor):
    """A group whose observations are copied to the device once, for both the rollout and the network.

    With ``capture`` the forward pass and the sampling are replayed as one CUDA graph.
    """

    def __init__(self, number: int, where: slice, policy: ContinualPolicy, capture: bool) -> None:
        super().__init__(number, where, policy)
        # One buffer and one graph for each group: while one group's graph runs, the other's observations are staged.
        space = cast(spaces.Box, policy.observation_space)
        self._staging = StagingBuffer(where.stop - where.start, space, policy.device)
        self._captured = (
            CapturedFunction(lambda: sample(policy, self._staging.tensor), policy.device) if capture else None
        )

    def _chosen(self, rollout: Rollout, step: int, observations: np.ndarray) -> Chosen:
        seen = self._staging.put(observations)
        # Outside the graph, because its target moves with the step: a graph would write to one step's memory forever.
        # The rollout copies the results of run() for the same reason: the next replay overwrites them.
        rollout.store_observations(step, self.where, seen)
        return sample(self._policy, seen) if self._captured is None else self._captured.run()


class Collector:
    """Collects rollouts from all environments of the task in use."""

    def __init__(self, env: VecEnv, policy: ContinualPolicy, capture: bool) -> None:
        """Create one actor for each group of environments.

        Args:
            env: The task's environments.
            policy: Has the task in use.
            capture: Whether to capture inference as CUDA graphs.
        """
        self.env = env
        self._grouped = env if isinstance(env, GroupedVecEnv | RecordedVecEnv) else GroupedVecEnv([env])
        self._newest: list[np.ndarray] = []  # newest observations of each group
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
        """The newest observation of every environment, (environments, ...)."""
        # Concatenated when asked for, once a rollout, instead of after every step.
        return self._newest[0] if len(self._actors) == 1 else np.concatenate(self._newest)

    def collect(self, rollout: Rollout, observations: np.ndarray) -> Iterator[Outcome]:
        """Yield the outcome of each step of the rollout, once every group has finished it.

        On-policy: every action is chosen by the current policy for the current observation, never a stale one. When a
        step is yielded, all groups but the last have already started the next; a caller that stops early must call
        :meth:`finish_started_step`.

        Args:
            rollout: Receives observations, actions, values and log-probabilities.
            observations: First observation of every environment, (environments, ...).
        """
        self._newest = [observations[actor.where] for actor in self._actors]
        # Software pipeline: while the emulator's threads step the last group, the network chooses for the others, and
        # the reverse. Groups ahead start step + 1 before step is yielded; the last group never does, so that at most
        # one step is in flight when the caller stops.
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
            yield concatenate_outcomes([*results, self._finish(last)])

    def finish_started_step(self, rollout: Rollout) -> None:
        """Complete a step that some groups have started, in all groups; it is not part of the rollout.

        Afterwards all environments have taken equally many steps, so the action log stays rectangular.
        """
        # The caller stopped before rollout.add, so rollout.pos is the step that was yielded; groups ahead are one on.
        step = rollout.pos + 1
        if len(self._actors) > 1 and step < rollout.buffer_size:
            self._begin(self._actors[-1], rollout, step)
            for actor in self._actors:
                self._finish(actor)

    def _begin(self, actor: GroupActor, rollout: Rollout, step: int) -> None:
        actions = actor.choose(rollout, step, self._newest[actor.number])
        self._grouped.step_group_async(actor.number, actions)

    def _finish(self, actor: GroupActor) -> VecEnvStepReturn:
        result = self._grouped.step_group_wait(actor.number)
        self._newest[actor.number] = cast(np.ndarray, result[0])
        return result
