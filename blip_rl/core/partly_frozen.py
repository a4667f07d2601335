"""State of one parameter with its frozen bits, and the in-place operations on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blip_rl.core import bits
from blip_rl.core.blocks import row_blocks

SAVED = {"frozen_bits": torch.uint8, "centre": torch.float32, "fisher_mean": torch.float32, "remainder": torch.float32}
"""Tensors of the saved state: kind → dtype. The ends of the interval follow from them."""


@dataclass
class PartlyFrozen:
    """One parameter of a trunk; every tensor is shaped and laid out like it.

    Attributes:
        weight: The parameter: θ, or Q(θ̂, N)·b where the forward pass is quantised.
        bound: b.
        fan: Factor of the prior.
        frozen_bits: S, uint8.
        centre: c, in the units of the weight.
        fisher_mean: F₀:ₜ, the running mean of the Fisher.
        remainder: θ − weight; 0 without quantisation.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    weight: nn.Parameter
    bound: float
    fan: int
    frozen_bits: Tensor
    centre: Tensor
    fisher_mean: Tensor
    remainder: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def unfrozen(cls, weight: nn.Parameter, bound: float, fan: int) -> PartlyFrozen:
        """Build the state without frozen bits; :meth:`set_interval` comes next."""
        kinds = ("centre", "fisher_mean", "remainder", "low", "high")
        zeros = {kind: torch.zeros_like(weight, requires_grad=False) for kind in kinds}
        frozen = torch.zeros_like(weight, dtype=torch.uint8, requires_grad=False)
        return cls(weight, bound, fan, frozen_bits=frozen, **zeros)

    def saved(self) -> dict[str, Tensor]:
        """Return the tensors of the saved state by kind, not copied."""
        return {kind: getattr(self, kind) for kind in SAVED}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors of a saved state, by kind, from any device."""
        for kind, tensor in self.saved().items():
            tensor.copy_(tensors[kind])

    def set_interval(self, total_bits: int, rule: bits.IntervalRule) -> None:
        """Set both ends of the interval from centre and frozen bits (paper Eq. 4)."""
        for centre, frozen, low, high in row_blocks(self.centre, self.frozen_bits, self.low, self.high):
            ends = bits.interval(centre, frozen, self.bound, total_bits, rule)
            low.copy_(ends[0])
            high.copy_(ends[1])
