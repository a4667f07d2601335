"""Running normalisation of observations and rewards, as in stable-baselines3's ``VecNormalize``.

Observations are normalised inside the policy, with statistics that are buffers of the task's module, so that everything
that runs the policy on raw observations (evaluation, distillation, replay of earlier tasks) sees the same input.

One difference from ``VecNormalize``: statistics of observations change after each update, not at each step. Rollouts
hold raw observations. If the statistics changed between collection and update, PPO's probability ratio would not be 1
at the start of the update.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor, nn

from blip_rl.config import NormalizationConfig
from blip_rl.errors import UserError

# The defaults of VecNormalize.
_CLIP = 10.0
_EPSILON = 1e-8


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen so far: stable-baselines3's ``RunningMeanStd`` as float64 buffers.

    Buffers are written in place, because CUDA graphs refer to their addresses.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        start = RunningMeanStd(shape=shape)
        for name in ("mean", "var", "count"):
            self.register_buffer(name, torch.empty(np.shape(getattr(start, name)), dtype=torch.float64))
        self.store(start)

    def load(self) -> RunningMeanStd:
        """Return a copy of the statistics."""
        found = RunningMeanStd(shape=tuple(self.mean.shape))
        found.mean, found.var = self.mean.cpu().numpy().copy(), self.var.cpu().numpy().copy()
        found.count = self.count.item()
        return found

    def store(self, statistics: RunningMeanStd) -> None:
        """Replace the statistics, in place."""
        for name in ("mean", "var", "count"):
            self.get_buffer(name).copy_(torch.as_tensor(getattr(statistics, name), dtype=torch.float64))

    def scale(self) -> Tensor:
        """Return the standard deviation that values are divided by, of the shape of a row."""
        return (self.var + _EPSILON).sqrt()


class Normalizer(nn.Module):
    """Statistics of one task's observations and discounted returns; of all tasks if they share a head.

    Attributes:
        observations: Statistics of observations; None: observations are not normalised.
        returns: Statistics of discounted returns; None: rewards are not normalised.
    """

    def __init__(self, space: spaces.Space[Any], config: NormalizationConfig) -> None:
        """Create empty statistics.

        Raises:
            UserError: observations of this space cannot be normalised.
        """
        super().__init__()
        if config.normalize_observations:
            _check_observations(space)
        self.observations = RunningMoments(cast(Any, space.shape)) if config.normalize_observations else None
        self.returns = RunningMoments() if config.normalize_rewards else None

    def forward(self, observations: Tensor) -> Tensor:
        """Normalise raw observations, (batch, inputs), to float32; return them unchanged if they are not normalised."""
        if self.observations is None:
            return observations
        # In float64, as VecNormalize: a large mean would cancel most digits of float32.
        centred = (observations.double() - self.observations.mean) / self.observations.scale()
        return centred.clamp(-_CLIP, _CLIP).float()

    def update(self, observations: Tensor) -> None:
        """Add raw observations, (batch, inputs), to the statistics."""
        if self.observations is not None:
            statistics = self.observations.load()
            statistics.update(observations.double().cpu().numpy())
            self.observations.store(statistics)

    def as_layers(self, mix: Tensor | None = None) -> list[nn.Module]:
        """Return the normalisation of observations as layers of torch; no layers if they are not normalised.

        Args:
            mix: Matrix, (inputs, inputs), that multiplies observations before they are normalised; None: no mixing.
        """
        if self.observations is None:
            return []
        scale = self.observations.scale()
        matrix = torch.diag(1 / scale) if mix is None else mix.double() / scale[:, None]
        layer = nn.Linear(len(scale), len(scale))
        layer.load_state_dict({"weight": matrix, "bias": -self.observations.mean / scale})
        return [layer, nn.Hardtanh(-_CLIP, _CLIP)]


class RewardNormalizer:
    """Divides the rewards of one task's environments by the standard deviation of their discounted return.

    Statistics are copied from the task's module at the start of a rollout and written back at its end, because they are
    needed on the CPU at every step. The discounted returns are part of the state of the environments: they restart with
    them and are recomputed when their actions are replayed.
    """

    def __init__(self, moments: RunningMoments | None, discount: float, environments: int) -> None:
        """Create it for environments that have just been reset.

        Args:
            moments: Statistics of the task; None: rewards are not changed.
            discount: Discount factor γ.
            environments: Number of environments.
        """
        self._moments, self._discount = moments, discount
        self._returns = np.zeros(environments)
        self._statistics: RunningMeanStd | None = None

    def restart(self) -> None:
        """Start again: all environments have been reset."""
        self._returns[:] = 0

    def follow(self, rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_]) -> None:
        """Take the rewards of a replayed step into account, without changing the statistics."""
        self._returns = self._returns * self._discount + rewards
        self._returns[dones] = 0

    def begin(self) -> None:
        """Load the statistics, before a rollout."""
        self._statistics = None if self._moments is None else self._moments.load()

    def normalize(self, rewards: npt.NDArray[Any], dones: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return the normalised rewards of a step, (environments,), after adding it to the statistics."""
        if self._statistics is None:
            return rewards
        self._returns = self._returns * self._discount + rewards
        self._statistics.update(self._returns)
        self._returns[dones] = 0
        scaled = rewards / np.sqrt(self._statistics.var + _EPSILON)
        return np.clip(scaled, -_CLIP, _CLIP).astype(np.float32)

    def end(self) -> None:
        """Write the statistics back, after a whole rollout."""
        if self._moments is not None and self._statistics is not None:
            self._moments.store(self._statistics)


def _check_observations(space: spaces.Space[Any]) -> None:
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return
    shown = f"{space.dtype} {space.shape}"
    why = "images, which are divided by 255 already" if len(space.shape or ()) == 3 else "not floating-point vectors"
    raise UserError(
        f"normalize_observations = true, but observations are {shown}: {why}; expected vectors of floating-point "
        "numbers (set it to false, or choose other tasks)"
    )
