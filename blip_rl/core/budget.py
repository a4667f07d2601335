"""Euclidean projection onto an ellipsoid ½ Σ F d² ≤ B: the nearest displacement within a budget.

With the multiplier λ ≥ 0 of the constraint the projection of d is d / (1 + λ F), and λ solves

    s(λ) = √(Σ F d² / (1 + λ F)²) = r,    r = √(2 B).

Newton's method on 1/s(λ) = 1/r, which is nearly linear in λ (Moré and Sorensen 1983, for trust regions), converges from
below in a few iterations.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from blip_rl.core.penalty import QuadraticPenalty

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


def project_within_(weights: Mapping[str, Tensor], penalty: QuadraticPenalty, budget: float) -> None:
    """Project all weights together, in place, onto the ellipsoid ½ Σ F (θ − θ*)² ≤ budget.

    Args:
        weights: Parameters by name.
        penalty: Has F and θ* for each of them.
        budget: B > 0.

    Raises:
        ValueError: the penalty has no Fisher.
    """
    if penalty.fisher is None:
        raise ValueError("the penalty has no Fisher (F = 1 everywhere): create it with the kind 'fisher'")
    # One multiplier for all parameters: the budget is of the whole trunk.
    fisher = torch.cat([penalty.fisher[name].flatten() for name in weights])
    away = torch.cat([(weight - penalty.anchor[name]).flatten() for name, weight in weights.items()])
    parts = torch.split(away * shrink_factor(fisher, away, budget), [weight.numel() for weight in weights.values()])
    for (name, weight), part in zip(weights.items(), parts, strict=True):
        weight.copy_(penalty.anchor[name] + part.view_as(weight))
