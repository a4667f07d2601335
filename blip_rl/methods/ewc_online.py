"""Online elastic weight consolidation: one anchor, the newest weights, and the sum of all Fishers.

Schwarz et al., ICML 2018 (arXiv 1805.06370). The penalty ½ · strength · Σ_i F_i (θ_i − θ*_i)² is centred on the weights
after the newest task, F ← gamma · F + F_k, so gamma < 1 discounts earlier tasks. Their second gamma, a
factor of the whole penalty, is part of ``strength`` here. 8 bytes per trunk parameter. Unlike EWC it keeps no slope:
earlier tasks pull towards the newest weights, not towards their own.
"""

from __future__ import annotations

import torch

from blip_rl.methods.base import FinishedTask
from blip_rl.methods.fisher_method import PenaltyMethod, PenaltySettings, mean_entry
from blip_rl.setting_types import Fraction


class EwcOnlineSettings(PenaltySettings):
    """Settings of the penalty, and the discount ``gamma`` of earlier Fishers."""

    gamma: Fraction = 1.0
    """Discount of earlier Fisher information at each task; 1: it accumulates."""


class EwcOnline(PenaltyMethod):
    """Adds a quadratic penalty around the weights of the newest task: ``EwcOnline(strength=80.6, gamma=0.9)``."""

    Settings = EwcOnlineSettings
    settings: EwcOnlineSettings

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Update F ← gamma · F + F_k and θ* ← θ*_k."""
        fisher, weights = self.fisher_of(finished), finished.weights()
        earlier = self.earlier(weights)
        self._penalty = earlier.reset(weights).plus(fisher, keep=self.settings.gamma)
        self.tasks_seen += 1
        return {"penalty": self.settings.strength * earlier.at(weights), "mean_fisher": mean_entry(fisher)}
