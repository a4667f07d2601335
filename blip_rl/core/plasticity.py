"""Measures of a layer's plasticity: dormant units, effective rank, gradient norm, free bits.

All functions are pure and take one layer. ``activations`` are the layer's outputs after the activation function:
(states, units) of a fully connected layer, (states, channels, height, width) of a convolution. The units of a
convolution are its channels, with one sample per position of every state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

Activations = Float[Tensor, "states units"] | Float[Tensor, "states channels height width"]
DORMANT_BELOW = 0.025
"""τ: a unit with at most this score is dormant (Sokar et al. 2023, Sec. 3)."""


def dormant_share(activations: Activations, threshold: float = DORMANT_BELOW) -> float:
    """Compute the share of dormant units, those with score sᵢ ≤ τ.

    sᵢ = E|hᵢ| / (1/H · Σₖ E|hₖ|), a unit's mean absolute activation over states (and positions), relative to the mean
    over the layer's H units.

    Args:
        activations: At least one state.
        threshold: τ.

    Returns:
        0 to 1; 1 if all activations are 0.

    Source: Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    Definition 3.1.
    """
    sizes = _rows(activations).abs().mean(0, dtype=torch.float64)
    return float((sizes <= threshold * sizes.mean()).double().mean())


def effective_rank(activations: Activations) -> float:
    """Compute the effective rank exp(H(p)), pᵢ = σᵢ / Σₖ σₖ.

    H is Shannon's entropy in nats, σ the singular values of the matrix with a row for each state (and position) and a
    column for each unit. Chosen over the threshold rank "srank" of Kumar et al. 2021 because it is smooth: it has no
    cut-off δ to choose, and it falls while features weaken, before any is lost.

    Args:
        activations: At least one state.

    Returns:
        1 to min(rows, units); 0 if all activations are 0, NaN if one is not finite.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, Definition 1.
    """
    rows = _rows(activations).double()
    if not rows.isfinite().all():
        return math.nan
    # σ² are the eigenvalues of the smaller Gram matrix: one matrix product instead of an SVD with thousands of rows.
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    if singular.sum() == 0:
        return 0.0
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def gradient_norm(fisher: Iterable[Float[Tensor, " ..."]]) -> float:
    """Compute the root mean square gradient norm of log π(a|s): √(E‖g‖²) = √(trace of the Fisher).

    Unlike the gradient of a mean over states, in which per-state gradients cancel, it does not depend on the number of
    states. It needs no rewards, so it can be measured on a fixed batch.

    Args:
        fisher: Diagonal Fisher of every parameter of the layer (:func:`blip_rl.core.fisher.diagonal_fisher`).
    """
    return math.sqrt(sum(f.sum(dtype=torch.float64).item() for f in fisher))


def free_bits(frozen_bits: Integer[Tensor, " ..."], total_bits: int) -> float:
    """Compute the mean of free bits, N − S, over a layer's weights.

    Args:
        frozen_bits: S of the layer's weights.
        total_bits: N.
    """
    return total_bits - frozen_bits.double().mean().item()


def _rows(activations: Activations) -> Float[Tensor, "rows units"]:
    """Reshape to a row per state, or per position of every state."""
    if len(activations) == 0:
        raise ValueError("activations of 0 states: expected at least one")
    return activations.movedim(1, -1).reshape(-1, activations.shape[1])
