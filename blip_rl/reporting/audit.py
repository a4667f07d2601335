"""Check the intervals of every stage against the weights of every later stage.

Two quantities are counted: weights outside the interval that a stage gave them, and weights whose frozen bits
Q(θ̂, S) have changed since that stage. The paper's interval (BLIP Eq. 4) is wide enough for frozen bits to change
inside it; ``interval = "half"`` preserves them.

Uses numpy only and holds one parameter of two stages in memory at a time. Intervals and Q are those of
:mod:`blip_rl.core.bits`, computed in the same float32 arithmetic, so that a weight on the edge of its interval counts
as inside here, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blip_rl.core.released_code import fan, weight_bound
from blip_rl.reporting.checkpoints import Checkpoint

Array = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Intervals:
    """Intervals of one parameter's entries after a stage; every array has the parameter's shape.

    Attributes:
        low: Lower ends, in units of the weight.
        high: Upper ends, in units of the weight.
        centre: c, in units of the weight.
        frozen_bits: S.
        bound: b; θ̂ = weight / b.
    """

    low: Array
    high: Array
    centre: Array
    frozen_bits: Bits
    bound: float


@dataclass(frozen=True)
class Violations:
    """Interval violations and changed bits between two stages.

    Attributes:
        earlier: Number of the stage that froze the bits.
        later: Number of the stage whose weights are checked.
        frozen: Weights and biases with at least one frozen bit.
        left: How many of them are outside the earlier stage's interval.
        furthest: Largest distance of one of those from its centre, in radii of its interval; 0 if none is outside.
        changed: How many of them have different first S bits, Q(θ̂, S), with S of the earlier stage.
    """

    earlier: int
    later: int
    frozen: int
    left: int
    furthest: float
    changed: int


@dataclass(frozen=True)
class Audit:
    """Result of the audit of a run.

    Attributes:
        stages: Numbers of the stages that were compared.
        parameters: Weights and biases compared.
        pairs: One entry for each pair of stages.
    """

    stages: tuple[int, ...]
    parameters: int
    pairs: tuple[Violations, ...]


def interval(centre: Array, frozen_bits: Bits, bound: float, total_bits: int, half: bool = False) -> Intervals:
    """Return the intervals of :func:`blip_rl.core.bits.interval`, by the ``half`` rule or the paper's."""
    # In units of θ̂ all numbers are dyadic and exact in float32; only the product with the bound rounds, as in torch.
    grid = np.float32(2.0**total_bits)
    limit = np.float32(1 - 2.0**-total_bits)
    normalised = np.round(centre / np.float32(bound) * grid) / grid
    scale = _power_of_two(frozen_bits)
    if half:
        # A centre between two points of the S-bit grid denotes half an interval (core.bits.nested_centre). One step of
        # the N-bit grid is left out, so that no end rounds to the next point of the S-bit grid.
        scaled = normalised * scale
        width = np.where(scaled == np.round(scaled), np.float32(0.5), np.float32(0.25))
        radius: Array = np.where(frozen_bits > 0, np.maximum(width / scale - 1 / grid, 0), limit).astype(np.float32)
    else:
        radius = np.where(frozen_bits < total_bits, 1 / scale, np.float32(0))
    low, high = (np.clip(end, -limit, limit) * np.float32(bound) for end in (normalised - radius, normalised + radius))
    return Intervals(low.astype(np.float32), high.astype(np.float32), centre, frozen_bits, bound)


def first_bits(weights: Array, frozen_bits: Bits, bound: float) -> Array:
    """Return Q(θ̂, S) of :func:`blip_rl.core.bits.quantize`, in units of θ̂."""
    scale = _power_of_two(frozen_bits)
    limit = 1 - np.float32(0.5) / scale
    return np.asarray(np.round(np.clip(weights / np.float32(bound), -limit, limit) * scale) / scale)


def compare(intervals: Intervals, weights: Array, half: bool = False) -> tuple[int, float]:
    """Return how many weights are outside their interval, and the largest distance of one from its centre in radii."""
    # not (inside) instead of (below or above): NaN compares false, so a NaN weight counts as outside
    outside = ~((weights >= intervals.low) & (weights <= intervals.high)) & (intervals.frozen_bits > 0)
    if not outside.any():
        return 0, 0.0
    frozen = intervals.frozen_bits[outside].astype(np.int64) + half
    # A radius is 2^-S of the bound, or half of it by the ``half`` rule: multiply by 2^S instead of dividing by it.
    gone = np.abs(weights[outside].astype(np.float64) - intervals.centre[outside]) / intervals.bound
    radii = np.nan_to_num(np.ldexp(gone, frozen), nan=math.inf, posinf=math.inf)
    return int(outside.sum()), float(radii.max())


def _power_of_two(bits: Bits) -> Array:
    return np.ldexp(np.float32(1.0), bits.astype(np.int32))


def audit_run(
    checkpoints: Sequence[Checkpoint], method: dict[str, Any], total_bits: int, problems: list[str]
) -> Audit | None:
    """Compare every pair of stages of a run whose method freezes bits.

    Args:
        checkpoints: Of one run, in the order of their stages.
        method: The method's settings.
        total_bits: N.
        problems: Receives a message for every checkpoint that cannot be audited.

    Returns:
        The result; None if no checkpoint has intervals.
    """
    usable = []
    for checkpoint in checkpoints:
        wrong = _wrong_intervals(checkpoint, total_bits)
        if wrong is None:
            usable.append(checkpoint)
        else:
            problems.append(f"checkpoint of stage {checkpoint.stage}: {wrong}; left out of the audit")
    if not usable:
        return None
    fan_bounds = method.get("weight_bound", "fan") == "fan"
    half = method.get("interval") == "half"  # recipes of early versions have no such key: the paper's rule
    parameters = sum(math.prod(shape) for shape in usable[0].shapes.values())
    return Audit(
        tuple(checkpoint.stage for checkpoint in usable),
        parameters,
        tuple(_compare_all(usable, fan_bounds, total_bits, half)),
    )


def _compare_all(checkpoints: Sequence[Checkpoint], fan_bounds: bool, total_bits: int, half: bool) -> list[Violations]:
    """Return one entry per pair of stages; hold one parameter in memory at a time."""
    pairs = [(i, j) for i in range(len(checkpoints)) for j in range(i + 1, len(checkpoints))]
    found: dict[tuple[int, int], list[tuple[int, int, float, int]]] = {pair: [] for pair in pairs}
    for name, shape in checkpoints[0].shapes.items():
        bound = _bound(shape, fan_bounds)
        for i, earlier in enumerate(checkpoints[:-1]):
            frozen_bits = earlier.memory(f"{name}.frozen_bits")
            intervals = interval(earlier.memory(f"{name}.centre"), frozen_bits, bound, total_bits, half)
            bits, frozen = first_bits(earlier.weights(name), frozen_bits, bound), int((frozen_bits > 0).sum())
            for j in range(i + 1, len(checkpoints)):
                weights = checkpoints[j].weights(name)
                changed = (first_bits(weights, frozen_bits, bound) != bits) & (frozen_bits > 0)
                found[i, j].append((frozen, *compare(intervals, weights, half), int(changed.sum())))
    return [_total(checkpoints[i].stage, checkpoints[j].stage, results) for (i, j), results in found.items()]


def _total(earlier: int, later: int, results: list[tuple[int, int, float, int]]) -> Violations:
    frozen, left, furthest, changed = zip(*results, strict=True)
    return Violations(earlier, later, sum(frozen), sum(left), max(furthest), sum(changed))


def _wrong_intervals(checkpoint: Checkpoint, total_bits: int) -> str | None:
    """Return why a checkpoint cannot be audited; None if it can."""
    if checkpoint.plays_only:
        return "published to be played, without the method's state"
    if not checkpoint.has_intervals:
        return "a weight has no centre and frozen bits of its shape"
    for name in checkpoint.shapes:
        frozen_bits = checkpoint.memory(f"{name}.frozen_bits")
        if frozen_bits.dtype != np.uint8 or frozen_bits.max(initial=0) > total_bits:
            return f"{name} has frozen bits outside 0 to {total_bits}"
    return None


def _bound(shape: tuple[int, ...], fan_bounds: bool) -> float:
    """Return b of a parameter: 1 for biases, and for weights without bounds by their fan."""
    if len(shape) < 2 or not fan_bounds:
        return 1.0
    return weight_bound(fan(shape))
