"""How able to learn a layer still is: dormant units, effective rank, size of the gradient, free bits.

All functions are pure and take one layer. ``activations`` are what the layer gives on after its activation function:
(states, units) of a fully connected layer, (states, channels, height, width) of a convolution, whose units are its
channels, seen at every position of every state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

DORMANT_BELOW = 0.025
"""τ: at most this score makes a unit dormant (Sokar et al. 2023, Sec. 3)."""


def dormant_share(activations: Tensor, threshold: float = DORMANT_BELOW) -> float:
    """Share of units that hardly ever respond: those with score sᵢ ≤ τ.

    sᵢ = E|hᵢ| / (1/H · Σₖ E|hₖ|), the mean over states (and positions) of a unit's size against the layer's H units.

    Args:
        activations: (states, units) or (states, channels, height, width), at least one state.
        threshold: τ.

    Returns:
        0 to 1; 1 where the whole layer is silent.

    Source: Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    Definition 3.1.
    """
    sizes = _rows(activations).abs().mean(0, dtype=torch.float64)
    return float((sizes <= threshold * sizes.mean()).double().mean())


def effective_rank(activations: Tensor) -> float:
    """How many directions of equal weight would be as spread out as the features: exp(H(p)), pᵢ = σᵢ / Σₖ σₖ.

    H is Shannon's entropy in nats, σ the singular values of the matrix with a row for each state (and position) and a
    column for each unit. Chosen over the threshold rank "srank" of Kumar et al. 2021 because it is smooth: it has no
    cut-off δ to choose, and it moves when features fade before any is lost.

    Args:
        activations: (states, units) or (states, channels, height, width), at least one state.

    Returns:
        1 to min(rows, units); 0 where the whole layer is silent, NaN where an activation is not finite.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, Definition 1.
    """
    rows = _rows(activations).double()
    if not rows.isfinite().all():
        return math.nan
    # σ² are the eigenvalues of the smaller Gram matrix: thousands of rows cost one product instead of an svd.
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    if singular.sum() == 0:
        return 0.0
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def gradient_norm(fisher: Iterable[Tensor]) -> float:
    """Root mean square over states and actions of the norm of ∂ log π(a|s)/∂θ: √(E‖g‖²) = √(trace of the Fisher).

    Unlike the gradient of a mean over states, in which the states' own gradients cancel, it does not depend on how many
    states there are; and it needs no rewards, so it can be taken on a fixed batch.

    Args:
        fisher: Diagonal Fisher of every parameter of the layer (:func:`blip_rl.core.fisher.diagonal_fisher`).
    """
    return math.sqrt(sum(f.sum(dtype=torch.float64).item() for f in fisher))


def free_bits(frozen_bits: Tensor, total_bits: int) -> float:
    """Bits of a weight that may still change, N − S, on average over a layer.

    Args:
        frozen_bits: S of the layer's weights, any shape.
        total_bits: N.
    """
    return total_bits - frozen_bits.double().mean().item()


def _rows(activations: Tensor) -> Tensor:
    """(rows, units): a row for each state, or for each position of each state."""
    if len(activations) == 0:
        raise ValueError("activations of 0 states: expected at least one")
    return activations.movedim(1, -1).reshape(-1, activations.shape[1])
