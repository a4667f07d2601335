"""L2: a quadratic penalty around the weights of the previous task, the same for every weight.

The penalty ½ · strength · Σ_i (θ_i − θ*_i)² is EWC's with a Fisher of 1 everywhere and one anchor, the baseline of
Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796), figure 2. 4 bytes per trunk parameter, for any number of tasks.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.core import saved
from blip_rl.core.penalty import QuadraticPenalty
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network
from blip_rl.setting_types import NonNegativeFloat, Settings


class L2Settings(Settings):
    """``strength`` of the penalty, in units of loss per squared distance."""

    strength: NonNegativeFloat = 10.0
    """λ of the penalty."""


class L2(Method):
    """Adds a quadratic penalty around the weights of the previous task."""

    capturable: ClassVar[bool] = True
    Settings = L2Settings
    settings: L2Settings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`L2Settings` as keywords: ``L2(strength=10)``."""
        super().__init__(**settings)
        self._penalty = QuadraticPenalty()  # over strength; without an anchor before the first task has ended

    def start_task(self, trunk: nn.Module) -> None:
        """Move the anchor to the trunk's device and memory layout.

        Raises:
            ValueError: it belongs to another network.
        """
        if self._penalty.anchor:
            self._penalty = self._penalty.fitted(dict(trunk.named_parameters()))

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add ∂penalty/∂θ = strength · (θ − θ*)."""
        if self._penalty.anchor and parameter.grad is not None:
            parameter.grad.add_(self._penalty.gradient(name, parameter), alpha=self.settings.strength)

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Set the anchor to the current weights."""
        weights = finished.weights()
        penalty = self._penalty.at(weights) if self._penalty.anchor else 0.0
        self._penalty = self._penalty.reset(weights)
        return {"penalty": self.settings.strength * penalty}

    def state(self) -> MethodState:
        """Return the anchor; nothing before the end of the first task."""
        return MethodState(self._penalty.tensors())

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the anchor of each parameter."""
        return saved.layouts(network.parameters(), anchor=torch.float32)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._penalty = QuadraticPenalty.from_saved(state.tensors, "anchor")
