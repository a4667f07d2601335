"""Bit-Level Information Preserving (BLIP): frozen bits of each weight, and the interval that they restrict it to.

Shi, Yuan, Chen, Feng, "Continual Learning via Bit-Level Information Preserving", CVPR 2021 (arXiv 2105.04444), "the
paper"; the authors' release of January 2023, "the reference".

Notation: θ a weight, b its bound, θ̂ = θ/b ∈ [−1, 1]; N ``total_bits``; S ``frozen_bits``; c ``centre``; t the number of
the task just learned, counted from 1; F a diagonal Fisher. All functions are elementwise and, but for
:func:`project_and_quantize_`, pure. Shapes: ``*shape`` is that of the weights, ``*#shape`` may also broadcast to it.
Weights, centres and intervals are in the weight's own units (θ, not θ̂).

The paper's equations, in the order in which a task uses them::

    Eq. 2     Q(θ̂, n), the n-bit grid                      quantize
    Eq. 3, 4  an optimizer step under quantisation        project_and_quantize_ (project, without quantisation)
    Eq. 4     the interval of a partly frozen weight      interval, radius
    Eq. 6     Fₜ, the task's Fisher                       core.fisher.diagonal_fisher
    Eq. 8     information gain in bits                    information_gain
    Eq. 9     n₀:ₜ, the bits frozen in total              freeze; then c ← Q(θ̂, S)·b with the new S
    Eq. 7     F₀:ₜ, the running mean of the Fisher        running_fisher

Algorithm 1 of the paper computes c before S grows, and leaves the sum of Eq. 7 undivided. Both contradict its text and
the release, which are followed here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from blip_rl.core.projection import project_and_quantize_in_blocks_, worth_blocks
from blip_rl.core.quantization import half_centre, off_grid, on_grid, power_of_two

GainRule = Literal["paper", "reference"]
IntervalRule = Literal["paper", "half"]
TOTAL_BITS = 20
"""N of the paper's experiments (Sec. 4)."""


def quantize(
    weight: Float[Tensor, "*shape"], bits: Integer[Tensor, "*#shape"] | int, bound: Float[Tensor, "*#shape"] | float
) -> Float[Tensor, "*shape"]:
    """Quantize a weight to n bits: Q(θ̂, n)·b, Q(θ̂, n) = round(2ⁿ · clip(θ̂, −1 + 2^−(n+1), 1 − 2^−(n+1))) / 2ⁿ.

    Args:
        weight: θ.
        bits: n ≥ 0; 0 bits give exactly 0.
        bound: b > 0.

    Returns:
        The nearest point of the n-bit grid; ties round to even.

    Source: paper Eq. 2.
    """
    scale = power_of_two(bits, weight)
    limit = 1 - 0.5 / scale
    # Divide by a tensor: CUDA turns division by a Python number into multiplication with its reciprocal, whose rounding
    # breaks ties differently, so the CPU and the GPU would disagree on the grid point.
    normalised = weight / torch.as_tensor(bound, dtype=weight.dtype, device=weight.device)
    # Scaled by 2ⁿ the limit is 2ⁿ − ½, a tie that rounds to the even 2ⁿ: a weight at its bound becomes exactly ±b. For
    # n = 0 it is ½, which rounds to 0.
    normalised = torch.minimum(torch.maximum(normalised, -limit), limit)
    return torch.round(normalised * scale) / scale * bound


def information_gain(
    fisher_task: Float[Tensor, "*shape"],
    fisher_mean: Float[Tensor, "*#shape"],
    tasks_seen: int,
    rule: GainRule = "paper",
) -> Float[Tensor, "*shape"]:
    """Compute the information that a task gives about each weight, in bits.

    paper      ½ log₂((t·F₀:ₜ₋₁ + Fₜ) / (t·F₀:ₜ₋₁))                 Eq. 8
    reference  ½ log₂(F₀:ₜ / F₀:ₜ₋₁), the same minus ½ log₂((t+1)/t)

    Args:
        fisher_task: Fₜ ≥ 0 of the task just learned.
        fisher_mean: F₀:ₜ₋₁ > 0, the running mean before this task; before the first task, the prior F₀.
        tasks_seen: t ≥ 1, the number of the task just learned.
        rule: One of the two above.

    Raises:
        ValueError: ``tasks_seen`` below 1 or an unknown rule.
    """
    _check_tasks_seen(tasks_seen)
    if rule == "paper":
        # log1p keeps gains far below one bit from rounding to 0: with ⌈·⌉ in Eq. 9 any Fₜ > 0 must freeze a bit.
        return torch.log1p(fisher_task / (tasks_seen * fisher_mean)) * _HALF_LOG2_E
    if rule == "reference":
        # Negative where a task says less than the mean so far, so that ⌈·⌉ freezes nothing.
        return 0.5 * torch.log2(running_fisher(fisher_task, fisher_mean, tasks_seen) / fisher_mean)
    raise ValueError(f"rule {rule!r}: expected 'paper' or 'reference'")


def freeze(
    gain: Float[Tensor, "*shape"], frozen_bits: Integer[Tensor, "*#shape"], total_bits: int = TOTAL_BITS
) -> Integer[Tensor, "*shape"]:
    """Freeze more bits: S ← S + clip(⌈gain⌉, 0, N − S).

    Args:
        gain: Information gain in bits, any sign; NaN counts as 0.
        frozen_bits: S before this task, 0 ≤ S ≤ N.
        total_bits: N.

    Returns:
        S after this task, in the dtype of ``frozen_bits``; never below S before, never above N.

    Source: paper Eq. 9.
    """
    # In floating point: a sum of uint8 could wrap around. Bit counts are exact there, and ±∞ is clamped as any number.
    new = torch.nan_to_num(torch.ceil(gain), nan=0.0).clamp(min=0.0, max=float(total_bits))
    return torch.minimum(new + frozen_bits, torch.full_like(new, total_bits)).to(frozen_bits.dtype)


def radius(
    frozen_bits: Integer[Tensor, "*shape"],
    total_bits: int = TOTAL_BITS,
    rule: IntervalRule = "paper",
    *,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "*shape"]:
    """Compute the half-width r of a weight's interval, in units of θ̂.

    paper  2^−S                      Eq. 4
    half   2^−(S+1) − 2^−N           not in the paper: the weights that round to the centre at S bits

    Both are 0 if all bits are frozen and at most 1 − 2^−N, the whole range, which a weight without frozen bits has
    under either rule. ``half`` stops one grid step short of 2^−(S+1): a weight at exactly half a step is a tie,
    which rounds to even and, after the division by the bound in floating point, to either side.

    Args:
        frozen_bits: S.
        total_bits: N.
        rule: One of the two above.
        dtype: Dtype of the result; None: torch's default.

    Raises:
        ValueError: an unknown rule.
    """
    scale = power_of_two(frozen_bits, torch.empty((), dtype=dtype, device=frozen_bits.device))
    step = 2.0**-total_bits
    if rule == "paper":
        # 0 if S = N; the release still leaves 2^−N there, so that a fully frozen weight may move by a step per task.
        return torch.where(scale < 2.0**total_bits, 1 / scale, 0.0).clamp(max=1 - step)
    if rule == "half":
        return torch.where(scale > 1, 0.5 / scale - step, 1 - step).clamp(min=0.0)
    raise ValueError(f"rule {rule!r}: expected 'paper' or 'half'")


def interval(
    centre: Float[Tensor, "*shape"],
    frozen_bits: Integer[Tensor, "*#shape"] | int,
    bound: Float[Tensor, "*#shape"] | float,
    total_bits: int = TOTAL_BITS,
    rule: IntervalRule = "paper",
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Compute a weight's interval: [c − r·b, c + r·b] ∩ ±(1 − 2^−N)·b, r from :func:`radius`.

    The paper's interval extends a whole step of the S-bit grid to each side, so Q(θ̂, S) may change inside it. ``half``
    contains only weights whose Q(θ̂, S) is c, so the first S bits are kept. A centre between two points of the S-bit
    grid, as :func:`nested_centre` may return it, denotes half of such an interval.

    Args:
        centre: c in the weight's units, from :func:`quantize` or :func:`nested_centre`.
        frozen_bits: S.
        bound: b > 0.
        total_bits: N.
        rule: Rule of the radius.

    Returns:
        (low, high) on the N-bit grid; both equal the centre if S = N.

    Raises:
        ValueError: an unknown rule.

    Source: paper Eq. 4; ``half`` is in neither source.
    """
    # In units of θ̂ all numbers are dyadic, so c ± r is exact in floating point and on the grid of quantize().
    normalised = on_grid(centre, bound, total_bits)
    frozen = torch.as_tensor(frozen_bits, device=centre.device)
    reach = radius(frozen, total_bits, rule, dtype=centre.dtype)
    if rule == "half":
        cut = (0.25 / power_of_two(frozen, centre) - 2.0**-total_bits).clamp(min=0.0)
        reach = torch.where(off_grid(normalised, frozen), cut, reach)
    limit = 1 - 2.0**-total_bits
    low, high = (normalised - reach).clamp(-limit, limit), (normalised + reach).clamp(-limit, limit)
    return low * bound, high * bound


def nested_centre(
    weight: Float[Tensor, "*shape"],
    frozen_bits: Integer[Tensor, "*shape"],
    outer_centre: Float[Tensor, "*shape"],
    outer_bits: Integer[Tensor, "*shape"],
    bound: Float[Tensor, "*#shape"] | float,
    total_bits: int = TOTAL_BITS,
    rule: IntervalRule = "paper",
) -> Float[Tensor, "*shape"]:
    """Choose a new centre such that the new interval lies inside the previous one.

    In neither source: in both, the centre follows the weight at every task, so a weight whose S does not grow may move
    another 2^−S each time, and the drift is unbounded. Here the centre of such a weight stays. If S grows:

    paper  c is the quantized weight, moved inwards by one step of its grid if it is on the outer interval's edge.
           Intersecting the two intervals instead would need two more bits of state for the half that remains.
    half   c is the quantized weight. If that is the outer interval's edge, only the half of the new interval that
           lies inside is kept: c moves inwards by a quarter of a step, off the S-bit grid, by which
           :func:`interval` recognises it.

    Args:
        weight: θ, inside the outer interval.
        frozen_bits: S after this task.
        outer_centre: c before this task.
        outer_bits: S before this task, at most ``frozen_bits``.
        bound: b > 0.
        total_bits: N.
        rule: Rule of the radius.
    """
    outer = on_grid(outer_centre, bound, total_bits)
    proposed = on_grid(quantize(weight, frozen_bits, bound), bound, total_bits)
    if rule == "half":
        inside = half_centre(on_grid(weight, bound, total_bits), proposed, frozen_bits, outer, outer_bits, total_bits)
    else:
        reach = 1 / power_of_two(outer_bits, weight) - radius(frozen_bits, total_bits, rule, dtype=weight.dtype)
        # The new interval is a subset of the outer one if and only if |c − c_outer| ≤ r_outer − r.
        inside = torch.minimum(torch.maximum(proposed, outer - reach), outer + reach)
    return torch.where(frozen_bits > outer_bits, inside * bound, outer_centre)


def project(
    weight: Float[Tensor, "*shape"], low: Float[Tensor, "*#shape"], high: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Project a weight onto its interval: clip(θ, low, high). Source: paper Eq. 4."""
    return torch.clamp(weight, low, high)


def project_and_quantize_(
    weight: Float[Tensor, "*shape"],
    remainder: Float[Tensor, "*shape"],
    low: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
    bound: float,
    total_bits: int,
) -> None:
    """Complete an optimizer step in place: θ ← clip(Q + r + step, low, high), Q ← Q(θ̂, N)·b, r ← θ − Q.

    The straight-through estimator (paper Eq. 3) needs Q(θ̂, N)·b in the forward pass while steps accumulate in θ. So the
    weight tensor itself holds Q, which any module can use unchanged, and a second tensor holds the remainder r. This is
    exact for every optimizer whose step does not read the weight (Adam and SGD without weight decay). Bit-identical to
    ``quantize(project(weight + remainder, low, high), N, bound)``. It runs after every optimizer step and is bound by
    memory bandwidth: it allocates nothing, and each buffer serves as scratch space of the other.

    Args:
        weight: Q(θ̂, N)·b plus the optimizer's step; becomes the new Q(θ̂, N)·b.
        remainder: r, at most half a grid step; becomes the new remainder.
        low: Lower end of the interval, on the N-bit grid.
        high: Upper end of the interval, on the N-bit grid.
        bound: b.
        total_bits: N.
    """
    step = bound * 2.0**-total_bits
    if worth_blocks(weight):
        project_and_quantize_in_blocks_(weight, remainder, low, high, step)
        return
    # The order matters: each line overwrites a value that no later line needs.
    weight.add_(remainder)  # θ before projection: Q + step + r
    torch.clamp(weight, low, high, out=remainder)  # θ (Eq. 4), kept in the remainder's memory
    # Bit-identical to quantize(): scaling by a power of two is exact, so θ / (b·2^−N) rounds as θ/b does. Its clip to
    # the ends of the grid is not needed: low and high are inside them.
    torch.div(remainder, step, out=weight)
    weight.round_().mul_(step)  # Q(θ̂, N)·b (Eq. 2); ties round to even, as in quantize()
    remainder.sub_(weight)  # r = θ − Q


def running_fisher(
    fisher_task: Float[Tensor, "*shape"], fisher_mean: Float[Tensor, "*#shape"], tasks_seen: int
) -> Float[Tensor, "*shape"]:
    """Update the mean over the prior and all tasks so far: F₀:ₜ = (t·F₀:ₜ₋₁ + Fₜ) / (t + 1). Source: paper Eq. 7.

    Args:
        fisher_task: Fₜ ≥ 0.
        fisher_mean: F₀:ₜ₋₁, in which the prior counts as one task.
        tasks_seen: t ≥ 1.

    Raises:
        ValueError: ``tasks_seen`` below 1.
    """
    _check_tasks_seen(tasks_seen)
    return (tasks_seen * fisher_mean + fisher_task) / (tasks_seen + 1)


_HALF_LOG2_E = 0.7213475204444817  # ½ log₂ e: from nats of log1p to bits


def _check_tasks_seen(tasks_seen: int) -> None:
    if tasks_seen < 1:
        raise ValueError(f"tasks_seen {tasks_seen}: expected the number of the task just learned, counted from 1")
