"""Arithmetic on the grid of n-bit numbers in [−1, 1], exact in floating point because all of them are dyadic.

Notation as in :mod:`blip_rl.core.bits`: θ̂ = θ/b, N ``total_bits``, S ``frozen_bits``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


def power_of_two(bits: Integer[Tensor, "*shape"] | int, like: Float[Tensor, " ..."]) -> Float[Tensor, "*shape"]:
    """Compute 2ⁿ exactly, in the dtype and on the device of ``like``."""
    exponent = torch.as_tensor(bits, device=like.device).to(torch.int32)
    return torch.ldexp(torch.ones_like(exponent, dtype=like.dtype), exponent)


def on_grid(
    weight: Float[Tensor, "*shape"], bound: Float[Tensor, "*#shape"] | float, total_bits: int
) -> Float[Tensor, "*shape"]:
    """Compute θ̂ rounded to the N-bit grid, which removes the rounding error of the division by the bound."""
    return torch.round(weight / bound * 2.0**total_bits) / 2.0**total_bits


def off_grid(normalised: Float[Tensor, "*shape"], bits: Integer[Tensor, "*#shape"]) -> Bool[Tensor, "*shape"]:
    """Return whether θ̂, a point of the N-bit grid, lies between two points of the n-bit grid."""
    scaled = normalised * power_of_two(bits, normalised)
    return scaled != torch.round(scaled)


def half_centre(
    normalised: Float[Tensor, "*shape"],
    proposed: Float[Tensor, "*shape"],
    frozen_bits: Integer[Tensor, "*shape"],
    outer: Float[Tensor, "*shape"],
    outer_bits: Integer[Tensor, "*shape"],
    total_bits: int,
) -> Float[Tensor, "*shape"]:
    """Compute the nested centre under the interval rule ``half``, see :func:`blip_rl.core.bits.nested_centre`.

    The outer interval's edges are points of every finer grid. So a finer interval either lies inside the outer one or
    is cut in the middle by an edge. The centre of the remaining half needs S + 2 bits; if N has fewer, the weight
    itself is the only remaining point.

    Args:
        normalised: θ̂ on the N-bit grid, inside the outer interval.
        proposed: Q(θ̂, S) with the new S.
        frozen_bits: S after this task, above ``outer_bits`` wherever the result is used.
        outer: The centre before this task, in units of θ̂.
        outer_bits: S before this task.
        total_bits: N.
    """
    width = torch.where(off_grid(outer, outer_bits), 0.25, 0.5) / power_of_two(outer_bits, outer)
    # Without frozen bits the outer interval is the whole range, whose ends never cut another interval.
    to_edge = torch.where(outer_bits > 0, width, 2.0)
    quarter = 0.25 / power_of_two(frozen_bits, outer)
    above, below = proposed >= outer + to_edge, proposed <= outer - to_edge
    cut = torch.where(above, proposed - quarter, torch.where(below, proposed + quarter, proposed))
    alone = (above | below) & (frozen_bits + 2 > total_bits)
    return torch.where(alone, normalised, cut)
