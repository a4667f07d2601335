"""Which prior F₀ makes the first task freeze a wanted number of bits."""

from __future__ import annotations

import torch
from torch import Tensor

from blip_rl.core.bits import TOTAL_BITS, GainRule, freeze, information_gain
from blip_rl.core.blocks import row_blocks

_LOG2_LOWEST, _LOG2_HIGHEST = -120.0, 60.0  # well inside float32, far outside any Fisher seen in practice
_BITS_TOLERANCE = 1e-3
_MAX_HALVINGS = 60


def solve_prior(
    fisher: Tensor, target_bits: float, rule: GainRule = "reference", total_bits: int = TOTAL_BITS
) -> tuple[float, float]:
    """Find F₀ such that the first task freezes ``target_bits`` on average.

    The mean of frozen bits falls monotonically with F₀, so bisection over log₂ F₀ finds it. It is a step function:
    where it jumps across the target, the nearer side is as close as any prior gets.

    Args:
        fisher: The first task's Fisher of every weight, one dimension, in the units of the prior (divided by the
            layer's fan where the prior is multiplied by it).
        target_bits: Wanted mean of frozen bits, 0 < target < ``total_bits``.
        rule: The gain rule that will be used with the prior.
        total_bits: N.

    Returns:
        (F₀, mean of frozen bits that it gives). The second differs from the target where too many weights have no
        Fisher information at all to ever reach it.
    """
    low, high = _LOG2_LOWEST, _LOG2_HIGHEST
    nearest, nearest_bits = 2.0**low, mean_first_bits(fisher, 2.0**low, rule, total_bits)
    if nearest_bits < target_bits:
        return nearest, nearest_bits
    for _ in range(_MAX_HALVINGS):
        middle = (low + high) / 2
        reached = mean_first_bits(fisher, 2.0**middle, rule, total_bits)
        if abs(reached - target_bits) < abs(nearest_bits - target_bits):
            nearest, nearest_bits = 2.0**middle, reached
        if abs(nearest_bits - target_bits) <= _BITS_TOLERANCE:
            break
        low, high = (middle, high) if reached > target_bits else (low, middle)
    return nearest, nearest_bits


def mean_first_bits(fisher: Tensor, prior: float, rule: GainRule, total_bits: int = TOTAL_BITS) -> float:
    """Mean of the bits that the first task freezes with prior F₀, over weights with Fisher ``fisher``."""
    mean_before = torch.full((), prior, dtype=fisher.dtype, device=fisher.device)
    nothing = torch.zeros((), dtype=torch.uint8, device=fisher.device)
    counts = [
        freeze(information_gain(piece, mean_before, 1, rule), nothing, total_bits).sum()
        for (piece,) in row_blocks(fisher)
    ]
    return torch.stack(counts).sum().item() / max(1, fisher.numel())
