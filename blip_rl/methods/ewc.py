"""Elastic weight consolidation: a quadratic penalty around the weights of each earlier task, scaled by its Fisher.

Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796). Over the earlier tasks k, with weights θ*_k and Fishers F_k, the
penalty is ½ · strength · Σ_k Σ_i F_k,i (θ_i − θ*_k,i)². A sum of quadratic functions is quadratic
(:mod:`blip_rl.core.penalty`), so three tensors represent it exactly for any number of tasks, 12 bytes per trunk
parameter: around the newest anchor θ*_K,

    penalty / strength = height + Σ_i (slope_i d_i + ½ F_i d_i²),    d = θ − θ*_K,    F = Σ_k F_k,
    slope = Σ_k F_k (θ*_K − θ*_k).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from blip_rl.methods.base import FinishedTask
from blip_rl.methods.fisher_method import AnchoredMethod, FisherSettings, mean_entry
from blip_rl.setting_types import NonNegativeFloat


class EwcSettings(FisherSettings):
    """Settings of EWC. ``strength`` is for the true Fisher: the mean of per-sample squared gradients."""

    strength: NonNegativeFloat = 80.6
    """λ of the penalty."""


class Ewc(AnchoredMethod):
    """Adds a quadratic penalty around the weights of every earlier task."""

    capturable: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("fisher", "anchor", "slope")
    Settings = EwcSettings
    settings: EwcSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`EwcSettings` as keywords: ``Ewc(strength=80.6)``."""
        super().__init__(**settings)

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add the penalty's gradient."""
        if self.tasks_seen and parameter.grad is not None:
            parameter.grad.add_(self._penalty.gradient(name, parameter), alpha=self.settings.strength)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Recentre the penalty at the newest weights, and add the new task's, whose minimum is there."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        moved = self.earlier(weights).recentre(weights)
        self._penalty = moved.plus(fisher)
        self.tasks_seen += 1
        return {"penalty": self.settings.strength * moved.height, "mean_fisher": mean_entry(fisher)}
