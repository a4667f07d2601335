"""Rollout storage: observations, actions and rewards of every environment, kept on the network's device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from blip_rl.learner.advantages import gae_loop, gae_scan, normalized

Array = npt.NDArray[np.float32]


class Minibatch(NamedTuple):
    """Steps sampled from a rollout; the first dimension of every tensor is the batch.

    Attributes:
        observations: Raw, images laid out with channels last.
        actions: int64 (batch,) for Discrete actions, float32 (batch, dimensions) for Box.
        log_probs: log π(a|s) when the action was taken, (batch,).
        values: V(s) at collection, (batch,).
        advantages: Generalised advantage estimates, (batch,).
        returns: Value targets: advantages + values, (batch,).
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Rollout:
    """Preallocated storage for ``buffer_size`` steps of ``n_envs`` environments, filled once and read in minibatches.

    Replaces stable-baselines3's ``RolloutBuffer`` with the same arguments, estimates and order of minibatches (for one
    state of NumPy's generator). Each observation is copied once, straight to the network's device and into the layout
    that convolutions run fastest with: bytes, channels last.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "cpu",
        gae_lambda: float = 0.95,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        self.buffer_size, self.n_envs, self.device = buffer_size, n_envs, torch.device(device)
        self.gae_lambda, self.gamma = gae_lambda, gamma
        size = (buffer_size, n_envs)
        self._observations = _empty_observations(size, observation_space, self.device)
        self._discrete = isinstance(action_space, spaces.Discrete)
        shape = () if self._discrete else cast(tuple[int, ...], action_space.shape)
        self.actions = torch.empty((*size, *shape), dtype=torch.int64 if self._discrete else torch.float32).to(device)
        self.log_probs, self.values = torch.empty((2, *size), device=self.device)
        # Rewards and episode starts are produced on the CPU and needed there.
        self.rewards, self.episode_starts = np.zeros((2, *size), dtype=np.float32)
        self.advantages, self.returns = torch.empty((2, *size), device=self.device)
        self.reset()

    def reset(self) -> None:
        """Start a new rollout in the same memory."""
        # Nothing is cleared: every entry is written before finish() reads it.
        self.pos, self.full = 0, False

    def store_observations(self, step: int, where: slice, observations: Tensor) -> Tensor:
        """Store the observations of some environments before a step, and return them as the network takes them.

        Args:
            step: Number of the step within the rollout.
            where: Which environments.
            observations: (environments, ...), from any device.
        """
        # One copy does three things: to the device, into channels-last layout, and into the rollout. What is returned
        # is the stored slice itself, so that the network reads it without another copy.
        return _channels_second(self._observations[step, where]).copy_(observations)

    def store_actions(self, step: int, where: slice, actions: Tensor, values: Tensor, log_probs: Tensor) -> None:
        """Store the actions, values and log-probabilities of some environments.

        Args:
            step: Number of the step within the rollout.
            where: Which environments.
            actions: (environments,) or (environments, dimensions).
            values: V(s), (environments,) or (environments, 1).
            log_probs: log π(a|s), (environments,).
        """
        self.actions[step, where] = actions
        self.values[step, where] = values.flatten()
        self.log_probs[step, where] = log_probs

    def add(self, rewards: Array, episode_starts: Array) -> None:
        """Store the rewards of the current step of all environments and advance to the next.

        Args:
            rewards: (n_envs,).
            episode_starts: Whether each observation was the first of its episode, (n_envs,).
        """
        self.rewards[self.pos] = rewards
        self.episode_starts[self.pos] = episode_starts
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def finish(self, last_values: Tensor, dones: npt.NDArray[np.bool_]) -> None:
        """Estimate advantages and returns of the full rollout, see :mod:`blip_rl.learner.advantages`.

        Args:
            last_values: V(s) of the observations after the last step, (n_envs,) or (n_envs, 1).
            dones: Whether the last step ended an episode, (n_envs,).
        """
        continues = 1 - np.concatenate([self.episode_starts[1:], dones.astype(np.float32)[None]])
        if self.device.type == "cpu":
            values, last = self.values.numpy(), last_values.numpy()
            # The order of additions of stable-baselines3's loop, so that a CPU run differs from it by rounding alone.
            estimate = gae_loop(self.rewards, values, last, continues, self.gamma, self.gae_lambda)
            self.advantages = torch.from_numpy(estimate)
        else:
            # Estimates stay on the device; rewards and masks are copied to it together, in one transfer.
            rewards, going = torch.from_numpy(np.stack([self.rewards, continues])).to(self.device)
            self.advantages = gae_scan(rewards, self.values, last_values, going, self.gamma, self.gae_lambda)
        self.returns = self.advantages + self.values

    def normalize_advantages(self) -> None:
        """Normalise the advantages over the whole rollout; returns are unchanged."""
        # Epsilon of the BLIP release (RL/rl_module/ppo.py), whose recipe normalises per rollout.
        self.advantages = normalized(self.advantages, epsilon=1e-5)

    def empty_minibatch(self, size: int) -> Minibatch:
        """Allocate a minibatch of this rollout's shapes."""
        observations, *others = (t.new_zeros((size, *t.shape[2:])) for t in self._tensors())
        return Minibatch(_channels_second(observations), *others)

    def minibatches(self, size: int, into: Minibatch | None = None) -> Iterator[Minibatch]:
        """Yield every step once, ``size`` at a time, in a random order from NumPy's global generator.

        Args:
            size: Steps of each minibatch.
            into: Buffer that every minibatch is written into, as a captured update needs; None allocates each anew.

        Raises:
            RuntimeError: the rollout is not full.
        """
        if not self.full:
            raise RuntimeError(f"{self.pos} of {self.buffer_size} steps collected: expected a full rollout")
        # The only random draw of PPO's update, so that a resumed run continues with the same minibatches.
        order = np.random.permutation(self.buffer_size * self.n_envs)  # noqa: NPY002  stable-baselines3 seeds this one
        # stable-baselines3 flattens to (environment, step), this storage to (step, environment): translate the indices,
        # so that a seed draws the same minibatches.
        rows = torch.from_numpy(order % self.buffer_size * self.n_envs + order // self.buffer_size).to(self.device)
        for chosen in torch.split(rows, size):
            if into is None:
                observations, *others = (t.flatten(0, 1).index_select(0, chosen) for t in self._tensors())
                yield Minibatch(_channels_second(observations), *others)
            else:
                # Both sides are contiguous with channels last, so the gather needs neither a temporary nor a transpose.
                places = (_channels_last(into[0]), *into[1:])  # actions may have as many dimensions as images
                for tensor, place in zip(self._tensors(), places, strict=True):
                    torch.index_select(tensor.flatten(0, 1), 0, chosen, out=place)
                yield into

    def all_observations(self) -> Tensor:
        """Return every observation collected so far, (steps · n_envs, ...)."""
        return _channels_second(self._observations[: self.pos].flatten(0, 1))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self._observations, self.actions, self.log_probs, self.values, self.advantages, self.returns


def _empty_observations(size: tuple[int, int], space: spaces.Space[Any], device: torch.device) -> Tensor:
    """Allocate (steps, environments, ...) observations; images are stored as (height, width, channels)."""
    shape = cast(tuple[int, ...], space.shape)
    if len(shape) == 3:
        shape = (shape[1], shape[2], shape[0])
    dtype = torch.from_numpy(np.empty(0, dtype=space.dtype)).dtype
    return torch.empty((*size, *shape), dtype=dtype, device=device)


def _channels_second(observations: Tensor) -> Tensor:
    """View (batch, height, width, channels) as (batch, channels, height, width); vectors are returned unchanged."""
    return observations.permute(0, 3, 1, 2) if observations.dim() == 4 else observations


def _channels_last(observations: Tensor) -> Tensor:
    """Invert :func:`_channels_second`."""
    return observations.permute(0, 2, 3, 1) if observations.dim() == 4 else observations
