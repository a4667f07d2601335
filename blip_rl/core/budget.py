"""Euclidean projection onto an ellipsoid ½ Σ F d² ≤ B: the nearest displacement within a budget.

With the multiplier λ ≥ 0 of the constraint the projection of d is d / (1 + λ F), and λ solves

    s(λ) = √(Σ F d² / (1 + λ F)²) = r,    r = √(2 B).

Newton's method on 1/s(λ) = 1/r, which is nearly linear in λ (Moré and Sorensen 1983, for trust regions), converges from
below in a few iterations.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ITERATIONS = 8


def shrink_factor(
    fisher: Float[Tensor, " weights"], away: Float[Tensor, " weights"], budget: float
) -> Float[Tensor, " weights"]:
    """Compute 1 / (1 + λ F), by which to multiply ``away``; 1 everywhere within the budget.

    The number of iterations is fixed and no value is read by the host, so that a CUDA graph can capture it.

    Args:
        fisher: F ≥ 0.
        away: d, the displacement.
        budget: B > 0.
    """
    radius = (2 * budget) ** 0.5
    energy = fisher * away.square()
    multiplier = torch.zeros((), dtype=fisher.dtype, device=fisher.device)
    for _ in range(_ITERATIONS):
        factor = 1 / (1 + multiplier * fisher)
        size = (energy * factor.square()).sum().sqrt()
        slope = (energy * fisher * factor.pow(3)).sum()
        step = (size - radius) * size.square() / (radius * slope).clamp(min=torch.finfo(fisher.dtype).tiny)
        multiplier = (multiplier + step).clamp(min=0)
    return 1 / (1 + multiplier * fisher)
