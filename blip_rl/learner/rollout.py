"""One rollout: what every environment saw, did and got, kept where the network is until the update has used it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Minibatch:
    """Some steps of a rollout; every tensor's first dimension is the batch.

    Attributes:
        observations: Raw, images laid out with channels last.
        actions: int64 (batch,) for Discrete actions, float32 (batch, dimensions) for Box.
        log_probs: log π(a|s) when the action was taken, (batch,).
        values: V(s) at that time, (batch,).
        advantages: Generalised advantage estimates, (batch,).
        returns: What V(s) should have been: advantages + values, (batch,).
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Rollout:
    """Preallocated storage of ``buffer_size`` steps of ``n_envs`` environments, filled once and read in minibatches.

    Takes the place of stable-baselines3's ``RolloutBuffer``: the same arguments, estimates and order of minibatches
    (for one state of numpy's generator), but each observation is copied once, to where it is used, in the layout the
    network wants: as bytes, with channels last.
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
        # Rewards and episode starts come from the CPU, and advantages are computed there.
        self.rewards, self.episode_starts = np.zeros((2, *size), dtype=np.float32)
        self.advantages, self.returns = torch.empty((2, *size), device=self.device)
        self.pos, self.full = 0, False

    def reset(self) -> None:
        """Begin a new rollout over the old one."""
        self.pos, self.full = 0, False

    def observe(self, observations: np.ndarray) -> Tensor:
        """Keep the next step's observations, (n_envs, ...), and return them as the network takes them."""
        self._slot(self.pos).copy_(torch.from_numpy(observations))
        return self._slot(self.pos)

    def add(self, actions: Tensor, values: Tensor, log_probs: Tensor, rewards: Array, episode_starts: Array) -> None:
        """Complete the step whose observations were given to :meth:`observe`.

        Args:
            actions: (n_envs,) or (n_envs, dimensions).
            values: V(s), (n_envs,) or (n_envs, 1).
            log_probs: log π(a|s), (n_envs,).
            rewards: (n_envs,).
            episode_starts: Whether each observation was the first of its episode, (n_envs,).
        """
        self.actions[self.pos] = actions
        self.values[self.pos] = values.flatten()
        self.log_probs[self.pos] = log_probs
        self.rewards[self.pos] = rewards
        self.episode_starts[self.pos] = episode_starts
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def finish(self, last_values: Tensor, dones: npt.NDArray[np.bool_]) -> None:
        """Estimate advantages and returns once all steps are there.

        Â_t = δ_t + γλ·(1 − d_{t+1})·Â_{t+1} with δ_t = r_t + γ·(1 − d_{t+1})·V(s_{t+1}) − V(s_t), d_{t+1} = 1 where
        s_{t+1} begins a new episode. Source: Schulman et al. 2016, "High-dimensional continuous control using
        generalized advantage estimation", Eq. 16.

        Args:
            last_values: V of the observations after the last step, (n_envs,) or (n_envs, 1).
            dones: Whether the last step ended an episode, (n_envs,).
        """
        values = self.values.cpu().numpy()
        following = np.concatenate([values[1:], last_values.cpu().numpy().reshape(1, -1)])
        goes_on = 1 - np.concatenate([self.episode_starts[1:], dones.astype(np.float32)[None]])
        deltas = self.rewards + np.float32(self.gamma) * following * goes_on - values
        advantages, carried = np.empty_like(deltas), np.zeros(self.n_envs, dtype=np.float32)
        decay = np.float32(self.gamma * self.gae_lambda) * goes_on
        for step in reversed(range(self.buffer_size)):
            carried = deltas[step] + decay[step] * carried
            advantages[step] = carried
        self.advantages = torch.from_numpy(advantages).to(self.device)
        self.returns = self.advantages + self.values

    def minibatches(self, size: int) -> Iterator[Minibatch]:
        """Every step once, in a random order drawn from numpy's global generator, ``size`` at a time.

        Raises:
            RuntimeError: the rollout is not full.
        """
        if not self.full:
            raise RuntimeError(f"{self.pos} of {self.buffer_size} steps collected: expected a full rollout")
        order = np.random.permutation(self.buffer_size * self.n_envs)  # noqa: NPY002  stable-baselines3 seeds this one
        # The order counts step by step within an environment, the storage environment by environment within a step.
        rows = torch.from_numpy(order % self.buffer_size * self.n_envs + order // self.buffer_size).to(self.device)
        for chosen in torch.split(rows, size):
            yield Minibatch(*(_rows(tensor, chosen) for tensor in self._tensors()))

    def all_observations(self) -> Tensor:
        """Every observation collected so far, (steps · n_envs, ...)."""
        return _channels_second(self._observations[: self.pos].flatten(0, 1))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self._observations, self.actions, self.log_probs, self.values, self.advantages, self.returns

    def _slot(self, step: int) -> Tensor:
        return _channels_second(self._observations[step])


def _empty_observations(size: tuple[int, int], space: spaces.Space[Any], device: torch.device) -> Tensor:
    """Storage for (steps, environments) observations; images (channels, height, width) have their channels last."""
    shape = cast(tuple[int, ...], space.shape)
    if len(shape) == 3:
        shape = (shape[1], shape[2], shape[0])
    dtype = torch.from_numpy(np.empty(0, dtype=space.dtype)).dtype
    return torch.empty((*size, *shape), dtype=dtype, device=device)


def _channels_second(observations: Tensor) -> Tensor:
    """(batch, height, width, channels) seen as (batch, channels, height, width); vectors as they are."""
    return observations.permute(0, 3, 1, 2) if observations.dim() == 4 else observations


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return _channels_second(tensor.flatten(0, 1).index_select(0, rows))
