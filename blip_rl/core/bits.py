"""Bit-level information preserving: which bits of a weight are certain, and how they stay put.

Shi, Yuan, Chen, Feng, "Continual Learning via Bit-Level Information Preserving", CVPR 2021 (arXiv 2105.04444), "the
paper"; the authors' release of January 2023, "the reference".

Notation: θ a weight, b its bound, θ̂ = θ/b ∈ [−1, 1]; N ``total_bits``; S ``frozen_bits``; c ``centre``; t the number of
the task just learned, counted from 1; F a diagonal Fisher. All functions are pure and elementwise: tensors of one shape
(or broadcastable scalars) in, a tensor of that shape out. Weights, centres and intervals are in the weight's own units
(θ, not θ̂).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from blip_rl.core.landing import land_in_pieces_, worth_pieces

GainRule = Literal["paper", "reference"]
TOTAL_BITS = 20
"""N of the paper's experiments (Sec. 4)."""


def quantize(weight: Tensor, bits: Tensor | int, bound: Tensor | float) -> Tensor:
    """Round a weight to n bits: Q(θ̂, n)·b with Q(θ̂, n) = round(2ⁿ · clip(θ̂, −1 + 2^−(n+1), 1 − 2^−(n+1))) / 2ⁿ.

    Args:
        weight: θ, any shape.
        bits: n ≥ 0, one number or one for each weight; 0 bits give exactly 0.
        bound: b > 0, one number or one for each weight.

    Returns:
        The nearest point of the n-bit grid, same shape as ``weight``. Halves go to the even neighbour.

    Source: paper Eq. 2.
    """
    scale = _power_of_two(bits, weight)
    limit = 1 - 0.5 / scale
    normalised = torch.minimum(torch.maximum(weight / bound, -limit), limit)
    return torch.round(normalised * scale) / scale * bound


def information_gain(fisher_task: Tensor, fisher_mean: Tensor, tasks_seen: int, rule: GainRule = "paper") -> Tensor:
    """Bits of information a task gives about each weight.

    paper      ½ log₂((t·F₀:ₜ₋₁ + Fₜ) / (t·F₀:ₜ₋₁))                 Eq. 8
    reference  ½ log₂(F₀:ₜ / F₀:ₜ₋₁), the same minus ½ log₂((t+1)/t)

    Args:
        fisher_task: Fₜ ≥ 0 of the task just learned.
        fisher_mean: F₀:ₜ₋₁ > 0, the running mean before this task; before the first task, the prior F₀.
        tasks_seen: t ≥ 1, the number of the task just learned.
        rule: which of the two.

    Raises:
        ValueError: ``tasks_seen`` below 1 or an unknown rule.
    """
    _check_tasks_seen(tasks_seen)
    if rule == "paper":
        # log1p keeps gains far below one bit exact: with this rule any Fₜ > 0 must freeze a bit.
        return torch.log1p(fisher_task / (tasks_seen * fisher_mean)) * _HALF_LOG2_E
    if rule == "reference":
        return 0.5 * torch.log2(running_fisher(fisher_task, fisher_mean, tasks_seen) / fisher_mean)
    raise ValueError(f"rule {rule!r}: expected 'paper' or 'reference'")


def freeze(gain: Tensor, frozen_bits: Tensor, total_bits: int = TOTAL_BITS) -> Tensor:
    """Add the newly certain bits: S + clip(⌈gain⌉, 0, N − S).

    Args:
        gain: bits, any sign; NaN counts as nothing gained.
        frozen_bits: S before, 0 ≤ S ≤ N, any integer type.
        total_bits: N.

    Returns:
        S after, in the type of ``frozen_bits``; never smaller than before, never above N.

    Source: paper Eq. 9.
    """
    new = torch.nan_to_num(torch.ceil(gain), nan=0.0).clamp(min=0.0, max=float(total_bits))
    return torch.minimum(new + frozen_bits, torch.full_like(new, total_bits)).to(frozen_bits.dtype)


def interval(
    centre: Tensor, frozen_bits: Tensor | int, bound: Tensor | float, total_bits: int = TOTAL_BITS
) -> tuple[Tensor, Tensor]:
    """Where a weight may move without changing its frozen bits: [c − 2^−S·b, c + 2^−S·b], inside ±(1 − 2^−N)·b.

    A weight whose bits are all frozen (S = N) has no room left: its interval is the centre alone.

    Args:
        centre: c in the weight's units, as :func:`quantize` returned it.
        frozen_bits: S.
        bound: b > 0.
        total_bits: N.

    Returns:
        (low, high), each shaped like ``centre``.

    Source: paper Eq. 4.
    """
    scale = _power_of_two(frozen_bits, centre)
    free = (scale < 2.0**total_bits).to(centre.dtype)
    # In θ̂ units all numbers are dyadic, so c ± 2^−S is exact and lands on the grid that quantize() knows.
    normalised = _on_grid(centre, bound, total_bits)
    limit = 1 - 2.0**-total_bits
    low = (normalised - free / scale).clamp(-limit, limit)
    high = (normalised + free / scale).clamp(-limit, limit)
    return low * bound, high * bound


def nested_centre(
    weight: Tensor,
    frozen_bits: Tensor,
    outer_centre: Tensor,
    outer_bits: Tensor,
    bound: Tensor | float,
    total_bits: int = TOTAL_BITS,
) -> Tensor:
    """Choose the new centre such that the new interval lies inside the one before: frozen bits can then never flip.

    Neither the paper nor the reference does this: there the centre follows the weight at every task, so a weight whose
    S does not grow may walk 2^−S further each time. Here the centre of such a weight stays. Where S grows, c is the
    quantised weight, moved inwards by one step of its grid where it sits on the outer interval's edge. Intersecting
    the two intervals instead would leave half an interval there, and would need two more bits of state to remember it.

    Args:
        weight: θ, inside the outer interval.
        frozen_bits: S after this task.
        outer_centre: c before this task.
        outer_bits: S before this task, at most ``frozen_bits``.
        bound: b > 0.
        total_bits: N.
    """
    scale, outer_scale = _power_of_two(frozen_bits, weight), _power_of_two(outer_bits, weight)
    radius = torch.where(scale < 2.0**total_bits, 1 / scale, torch.zeros_like(scale))
    outer = _on_grid(outer_centre, bound, total_bits)
    reach = 1 / outer_scale - radius
    proposed = _on_grid(quantize(weight, frozen_bits, bound), bound, total_bits)
    inside = torch.minimum(torch.maximum(proposed, outer - reach), outer + reach)
    return torch.where(scale > outer_scale, inside * bound, outer_centre)


def project(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Put a weight back into its interval: clip(θ, low, high). Source: paper Eq. 4."""
    return torch.clamp(weight, low, high)


def land_(weight: Tensor, remainder: Tensor, low: Tensor, high: Tensor, bound: float, total_bits: int) -> None:
    """Finish one optimizer step in place: θ ← clip(Q + r + step, low, high), Q ← Q(θ̂, N)·b, r ← θ − Q.

    The forward pass must see Q(θ̂, N)·b while the step accumulates in θ (paper Eq. 3, straight through). So the weight
    tensor holds Q and a second tensor the remainder r; this is exact for every optimizer whose step does not read the
    weight itself (Adam and SGD without weight decay). No temporaries, tensors of one shape; equal to the bit to
    ``quantize(project(weight + remainder, low, high), N, bound)``.

    Args:
        weight: Q(θ̂, N)·b plus the optimizer's step; becomes the new Q(θ̂, N)·b.
        remainder: r, at most half a grid step; becomes the new remainder.
        low: lower end of the interval, on the N-bit grid.
        high: upper end, likewise.
        bound: b.
        total_bits: N.
    """
    step = bound * 2.0**-total_bits
    if worth_pieces(weight):
        land_in_pieces_(weight, remainder, low, high, step)
        return
    weight.add_(remainder)
    torch.clamp(weight, low, high, out=remainder)
    torch.div(remainder, step, out=weight)
    weight.round_().mul_(step)
    remainder.sub_(weight)


def running_fisher(fisher_task: Tensor, fisher_mean: Tensor, tasks_seen: int) -> Tensor:
    """Mean over the prior and all tasks so far: F₀:ₜ = (t·F₀:ₜ₋₁ + Fₜ) / (t + 1). Source: paper Eq. 7.

    Args:
        fisher_task: Fₜ ≥ 0.
        fisher_mean: F₀:ₜ₋₁, the prior counted as one task.
        tasks_seen: t ≥ 1.

    Raises:
        ValueError: ``tasks_seen`` below 1.
    """
    _check_tasks_seen(tasks_seen)
    return (tasks_seen * fisher_mean + fisher_task) / (tasks_seen + 1)


def reference_prior(prior: float, batch: int) -> float:
    """Convert the reference's prior to one for the true Fisher: × batch².

    The reference takes gradients of the batch MEAN, so its Fisher is the true one / batch²: 5e-18 with its batch of 62
    is 1.92e-14 here.
    """
    return prior * batch**2


def fan(weight_shape: tuple[int, ...]) -> int:
    """Return max(outputs, inputs·kernel height·kernel width) of a linear or convolution weight. Source: reference."""
    outputs, *inputs = weight_shape
    return max(outputs, math.prod(inputs))


def weight_bound(layer_fan: int) -> float:
    """Bound b = 6/√fan of a layer's weights; see :func:`fan`. Source: reference."""
    return 6.0 / math.sqrt(layer_fan)


_HALF_LOG2_E = 0.7213475204444817


def _power_of_two(bits: Tensor | int, like: Tensor) -> Tensor:
    """2ⁿ in the floating type and on the device of ``like``, exactly."""
    exponent = torch.as_tensor(bits, device=like.device).to(torch.int32)
    return torch.ldexp(torch.ones_like(exponent, dtype=like.dtype), exponent)


def _on_grid(weight: Tensor, bound: Tensor | float, total_bits: int) -> Tensor:
    """θ̂ rounded to the N-bit grid, which removes the rounding error of dividing by the bound."""
    return torch.round(weight / bound * 2.0**total_bits) / 2.0**total_bits


def _check_tasks_seen(tasks_seen: int) -> None:
    if tasks_seen < 1:
        raise ValueError(f"tasks_seen {tasks_seen}: expected the number of the task just learned, counted from 1")
