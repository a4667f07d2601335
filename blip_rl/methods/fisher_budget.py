"""Fisher budget: bounds how far the weights move from the newest task's, in the metric of the Fishers of all tasks.

While a task is learned, the weights are projected after every optimizer step onto the ellipsoid

    ½ Σ_i F_i (θ_i − θ*_i)² ≤ budget,    F = Σ_k F_k, θ* the weights after the newest task.

With the full Fisher matrices the left side would be the divergence of the policies from those at θ*, to second order,
in nats. With their diagonals it estimates it: moves of several weights that add up are undercounted (up to a factor of
the number of weights), moves that cancel are overcounted. The bound is for each later task: distances from an earlier
task's own weights can add up, so after n later tasks ½ Σ F_k (θ − θ*_k)² is at most n² · budget, not n · budget.

The projection is the nearest point in the Euclidean norm: weights without information move freely. State per trunk
parameter, for any number of tasks: Fisher (4) and anchor (4) = 8 bytes. Unlike a penalty it has no strength that
depends on the scale of losses and gradients, and unlike intervals of single weights (BLIP) it does not assume that all
weights move in the worst direction at once.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.core.budget import project_within_
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.fisher_method import AnchoredMethod, FisherSettings, mean_entry
from blip_rl.setting_types import PositiveFloat


class FisherBudgetSettings(FisherSettings):
    """Settings of the Fisher budget."""

    budget: PositiveFloat = 0.01
    """Maximum of ½ Σ F (θ − θ*)² while one task is learned: estimates the divergence of the earlier policies, in
    nats."""


class FisherBudget(AnchoredMethod):
    """Projects the trunk onto an ellipsoid around the weights of the newest task."""

    Settings = FisherBudgetSettings
    settings: FisherBudgetSettings
    capturable: ClassVar[bool] = True

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`FisherBudgetSettings` as keywords: ``FisherBudget(budget=0.01)``."""
        super().__init__(**settings)
        self._weights: dict[str, nn.Parameter] = {}

    def start_task(self, trunk: nn.Module) -> None:
        """Move Fisher and anchor to the trunk's device and memory layout.

        Raises:
            ValueError: they belong to another network.
        """
        self._weights = dict(trunk.named_parameters())
        super().start_task(trunk)

    @torch.no_grad()
    def after_step(self) -> None:
        """Project the weights onto the ellipsoid."""
        if self.tasks_seen:
            project_within_(self._weights, self._penalty, self.settings.budget)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the task's Fisher and move the anchor to its weights."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        earlier = self.earlier(weights)
        spent = earlier.at(weights)
        self._penalty = earlier.reset(weights).plus(fisher, keep=1.0)
        self.tasks_seen += 1
        return {"spent": spent, "mean_fisher": mean_entry(fisher)}
