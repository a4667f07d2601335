"""Fisher budget: a hard bound on how far the policies of earlier tasks can move, to second order, in nats.

To second order the policy of task k diverges by ½ Σ_i F_k,i (θ_i − θ*_k,i)² from the one that was learned. While a task
is learned, the weights are projected after every optimizer step onto the ellipsoid

    ½ Σ_i F_i (θ_i − θ*_i)² ≤ budget,    F = Σ_k F_k, θ* the weights after the newest task,

so that each task may add at most ``budget`` nats. The projection is the nearest point in the Euclidean norm: weights
without information move freely. State per trunk parameter, for any number of tasks: Fisher (4) and anchor (4) = 8
bytes. Unlike a penalty it has no strength that depends on the scale of losses and gradients, and unlike intervals of
single weights (BLIP) it does not assume that all weights move in the worst direction at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.core import saved
from blip_rl.core.budget import shrink_factor
from blip_rl.core.penalty import QuadraticPenalty
from blip_rl.methods.base import FinishedTask, MethodState, Network
from blip_rl.methods.fisher_method import FisherMethod, FisherSettings, mean_entry
from blip_rl.setting_types import PositiveFloat

_KINDS = ("fisher", "anchor")


class FisherBudgetSettings(FisherSettings):
    """Settings of the Fisher budget."""

    budget: PositiveFloat = 0.01
    """Nats by which all earlier policies together may move while one task is learned, to second order."""


class FisherBudget(FisherMethod):
    """Projects the trunk onto an ellipsoid around the weights of the newest task."""

    Settings = FisherBudgetSettings
    settings: FisherBudgetSettings
    capturable: ClassVar[bool] = True

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`FisherBudgetSettings` as keywords: ``FisherBudget(budget=0.01)``."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self._penalty = QuadraticPenalty()
        self._weights: dict[str, nn.Parameter] = {}

    def start_task(self, trunk: nn.Module) -> None:
        """Move Fisher and anchor to the trunk's device and memory layout.

        Raises:
            ValueError: they belong to another network.
        """
        self._weights = dict(trunk.named_parameters())
        if self.tasks_seen:
            self._penalty = self._penalty.fitted(self._weights)

    @torch.no_grad()
    def after_step(self) -> None:
        """Project the weights onto the ellipsoid."""
        known = self._penalty.fisher
        if not self.tasks_seen or known is None:
            return
        names = list(self._weights)
        fisher = torch.cat([known[name].flatten() for name in names])
        away = torch.cat([(self._weights[name] - self._penalty.anchor[name]).flatten() for name in names])
        moved = away * shrink_factor(fisher, away, self.settings.budget)
        parts = torch.split(moved, [self._weights[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            weight = self._weights[name]
            weight.copy_(self._penalty.anchor[name] + part.view_as(weight))

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the task's Fisher and move the anchor to its weights."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        earlier = self._penalty if self.tasks_seen else QuadraticPenalty.flat(weights, *_KINDS)
        spent = earlier.at(weights)
        self._penalty = earlier.reset(weights).plus(fisher, keep=1.0)
        self.tasks_seen += 1
        return {"spent": spent, "mean_fisher": mean_entry(fisher)}

    def state(self) -> MethodState:
        """Return Fisher and anchor of each parameter, and the number of tasks seen."""
        return MethodState(self._penalty.tensors(), {"tasks_seen": self.tasks_seen, **self.scale_values()})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the tensors of each parameter."""
        return saved.layouts(network.parameters(), **dict.fromkeys(_KINDS, torch.float32))

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._penalty = QuadraticPenalty.from_saved(state.tensors, *_KINDS)
        self.tasks_seen = int(state.values["tasks_seen"])
        self.load_scale(state)
