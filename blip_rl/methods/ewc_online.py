"""Online elastic weight consolidation: one anchor, the newest weights, and all Fishers added up.

Schwarz et al., ICML 2018 (arXiv 1805.06370). The penalty ½ · strength · Σ_i F_i (θ_i − θ*_i)² is centred on the weights
after the newest task, F ← gamma · F + F_k, so that with gamma < 1 old tasks are slowly let go. Their second gamma, a
factor of the whole penalty, is left to ``strength``. 8 bytes per trunk parameter. What EWC has beside it is the slope
with which older tasks pull at the newest weights: here they agree to stay where the newest task has left them.
"""

from __future__ import annotations

from torch import Tensor

from blip_rl.config import Fraction
from blip_rl.methods.ewc import Ewc, EwcSettings


class EwcOnlineSettings(EwcSettings):
    """EWC's settings, and how much of the earlier Fishers is kept at the end of each task."""

    gamma: Fraction = 1.0


class EwcOnline(Ewc):
    """A quadratic penalty around the weights of the newest task."""

    Settings = EwcOnlineSettings
    settings: EwcOnlineSettings
    kinds = ("fisher", "anchor")

    def _remember(self, weights: dict[str, Tensor], fisher: dict[str, Tensor], penalty: float) -> None:
        """F ← gamma · F + F_k and θ* ← θ*_k, where the penalty is 0."""
        for name, weight in weights.items():
            self._kept["fisher"][name].mul_(self.settings.gamma).add_(fisher[name])
            self._kept["anchor"][name].copy_(weight)

    def _pull(self, name: str, weight: Tensor) -> Tensor:
        """Gradient of penalty / strength: F d."""
        return (weight - self._kept["anchor"][name]).mul_(self._kept["fisher"][name])
