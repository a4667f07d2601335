"""Online elastic weight consolidation: one anchor, the newest weights, and the sum of all Fishers.

Schwarz et al., ICML 2018 (arXiv 1805.06370). The penalty ½ · strength · Σ_i F_i (θ_i − θ*_i)² is centred on the weights
after the newest task, F ← gamma · F + F_k, so gamma < 1 discounts earlier tasks. Their second gamma, a
factor of the whole penalty, is part of ``strength`` here. 8 bytes per trunk parameter. Unlike EWC it keeps no slope:
earlier tasks pull towards the newest weights, not towards their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.core import saved
from blip_rl.core.penalty import QuadraticPenalty
from blip_rl.methods.base import FinishedTask, MethodState, Network
from blip_rl.methods.fisher_method import FisherMethod, FisherSettings, mean_entry
from blip_rl.setting_types import Fraction, NonNegativeFloat

_KINDS = ("fisher", "anchor")


class EwcOnlineSettings(FisherSettings):
    """``strength`` of the penalty, for the true Fisher, and the discount ``gamma`` of earlier Fishers."""

    strength: NonNegativeFloat = 80.6
    """λ of the penalty."""
    gamma: Fraction = 1.0
    """Discount of earlier Fisher information at each task; 1: it accumulates."""


class EwcOnline(FisherMethod):
    """Adds a quadratic penalty around the weights of the newest task."""

    capturable: ClassVar[bool] = True
    Settings = EwcOnlineSettings
    settings: EwcOnlineSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`EwcOnlineSettings` as keywords: ``EwcOnline(strength=80.6, gamma=0.9)``."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self._penalty = QuadraticPenalty()  # over strength

    def start_task(self, trunk: nn.Module) -> None:
        """Move the Fisher and the anchor to the trunk's device and memory layout.

        Raises:
            ValueError: they belong to another network.
        """
        if self.tasks_seen:
            self._penalty = self._penalty.fitted(dict(trunk.named_parameters()))

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add ∂penalty/∂θ = strength · F · (θ − θ*)."""
        if self.tasks_seen and parameter.grad is not None:
            parameter.grad.add_(self._penalty.gradient(name, parameter), alpha=self.settings.strength)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Update F ← gamma · F + F_k and θ* ← θ*_k."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        earlier = self._penalty if self.tasks_seen else QuadraticPenalty.flat(weights, *_KINDS)
        self._penalty = earlier.reset(weights).plus(fisher, keep=self.settings.gamma)
        self.tasks_seen += 1
        return {"penalty": self.settings.strength * earlier.at(weights), "mean_fisher": mean_entry(fisher)}

    def state(self) -> MethodState:
        """Return the Fisher, the anchor, the penalty's value there, 0, and the number of tasks seen."""
        values = {"tasks_seen": self.tasks_seen, "height": self._penalty.height, **self.scale_values()}
        return MethodState(self._penalty.tensors(), values)

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the tensors of each parameter."""
        return saved.layouts(network.parameters(), **dict.fromkeys(_KINDS, torch.float32))

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._penalty = QuadraticPenalty.from_saved(state.tensors, *_KINDS)
        self.tasks_seen = int(state.values["tasks_seen"])
        self.load_scale(state)
