"""Elastic weight consolidation: a quadratic penalty around the weights of each earlier task, scaled by its Fisher.

Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796). Over the earlier tasks k, with weights θ*_k and Fishers F_k, the
penalty is ½ · strength · Σ_k Σ_i F_k,i (θ_i − θ*_k,i)². A sum of quadratic functions is quadratic
(:mod:`blip_rl.core.penalty`), so three tensors represent it exactly for any number of tasks, 12 bytes per trunk
parameter: around the newest anchor θ*_K,

    penalty / strength = height + Σ_i (slope_i d_i + ½ F_i d_i²),    d = θ − θ*_K,    F = Σ_k F_k,
    slope = Σ_k F_k (θ*_K − θ*_k).
"""

from __future__ import annotations

from typing import ClassVar

import torch

from blip_rl.methods.base import FinishedTask
from blip_rl.methods.fisher_method import PenaltyMethod, mean_entry


class Ewc(PenaltyMethod):
    """Adds a quadratic penalty around the weights of every earlier task: ``Ewc(strength=80.6)``."""

    kinds: ClassVar[tuple[str, ...]] = ("fisher", "anchor", "slope")

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Recentre the penalty at the newest weights, and add the new task's, whose minimum is there."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        moved = self.earlier(weights).recentre(weights)
        self._penalty = moved.plus(fisher)
        self.tasks_seen += 1
        return {"penalty": self.settings.strength * moved.height, "mean_fisher": mean_entry(fisher)}
