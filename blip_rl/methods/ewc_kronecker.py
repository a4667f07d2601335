"""EWC with a Kronecker-factored Fisher: a penalty that takes the correlations of a layer's inputs into account.

Online structured Laplace approximation: Ritter, Botev & Barber, NeurIPS 2018 (arXiv 1805.07810). The penalty strength ·
½ (θ − θ*)ᵀ F (θ − θ*) is centred on the weights after the newest task; :mod:`blip_rl.core.kronecker` has F, of all
tasks together. A diagonal Fisher (``ewc_online``) adds up the costs of changing single weights, although changes of
several weights can cancel. State: the anchor, 4 bytes per parameter, and 4 bytes × rank × (d + outputs) for a layer
with d inputs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.core import kronecker, saved
from blip_rl.core.kronecker import KroneckerPenalty
from blip_rl.methods.base import FinishedTask, MethodState, Network
from blip_rl.methods.fisher_method import FisherMethod, FisherSettings
from blip_rl.setting_types import NonNegativeFloat, PositiveInt


class EwcKroneckerSettings(FisherSettings):
    """Settings of the Kronecker-factored penalty."""

    strength: NonNegativeFloat = 1.0
    """Factor of the divergence of the earlier policies, in nats to second order."""
    damping: NonNegativeFloat = 0.0
    """Share of the mean eigenvalue of G, over a layer's outputs, that is added to all: protects units that are dead or
    saturated in all of a task's states and so have no Fisher information."""
    rank: PositiveInt = 32
    """Number of eigenvalues of each factor that are kept; all others are replaced by their mean."""


class EwcKronecker(FisherMethod):
    """Adds a penalty with Kronecker-factored Fishers: ``EwcKronecker(strength=1.0)``."""

    capturable: ClassVar[bool] = True
    Settings = EwcKroneckerSettings
    settings: EwcKroneckerSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._penalty = KroneckerPenalty()  # not yet multiplied by the strength

    def start_task(self, trunk: nn.Module) -> None:
        """Move the penalty to the trunk's device.

        Raises:
            ValueError: it belongs to another network.
            TypeError: a layer of the trunk has no Kronecker factors.
        """
        kronecker.check_layers(trunk)
        if self._penalty.tasks:
            self._penalty = self._penalty.fitted(dict(trunk.named_parameters()))

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add the penalty's gradient."""
        if self._penalty.tasks and parameter.grad is not None:
            self._penalty.add_gradient_(parameter.grad, name, parameter, self.settings.strength)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the task's factors and move the anchor to its weights."""
        weights = finished.weights()
        spent = self._penalty.at(weights)
        factors = finished.kronecker(self.settings.fisher_expectation, self.settings.rank)
        factors = factors.damped(self.settings.damping)
        factors = factors.scaled(self.scale_of(factors.trace()))
        self._penalty = self._penalty.after_task(factors, weights)
        return {"penalty": self.settings.strength * spent, "trace": factors.trace()}

    def state(self) -> MethodState:
        """Return factors, anchor, and the number of tasks."""
        return MethodState(self._penalty.tensors(), {"tasks_seen": self._penalty.tasks, **self.scale_values()})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return both factors of each weight and the anchor of each parameter."""
        return kronecker.layouts(network.parameters(), self.settings.rank)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._penalty = KroneckerPenalty.from_saved(state.tensors, int(state.values["tasks_seen"]))
        self.load_scale(state)
