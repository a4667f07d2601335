"""The observations of a task's last rollouts, kept for its distillation."""

from __future__ import annotations

import torch
from torch import Tensor


class RolloutStates:
    """Observations in the order in which they were played, on the CPU; empty until some are added."""

    def __init__(self) -> None:
        self._rollouts: list[Tensor] = []

    def add(self, observations: Tensor) -> None:
        """Copy the observations of a rollout, (states, ...), raw, from any device."""
        self._rollouts.append(observations.detach().cpu().clone(memory_format=torch.contiguous_format))

    def all(self) -> Tensor | None:
        """Return all of them, (states, ...); None if there are none."""
        self._rollouts = [torch.cat(self._rollouts)] if self._rollouts else []
        return self._rollouts[0] if self._rollouts else None

    def replace(self, observations: Tensor | None) -> None:
        """Forget all of them and keep these instead, if any."""
        self._rollouts = [] if observations is None else [observations]
