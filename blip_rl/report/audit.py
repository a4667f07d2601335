"""Did a frozen bit flip? Each stage's intervals against the weights of every later stage.

Numpy alone, from the stage checkpoints, one parameter of one stage in memory at a time. The intervals are those of
:func:`blip_rl.core.bits.interval` (BLIP Eq. 4), in the same float32 arithmetic, so that a weight on the very edge of
its interval is inside here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blip_rl.report.checkpoints import Checkpoint

Array = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Intervals:
    """Where a stage let one parameter's entries move, and what is needed to say how far one has gone.

    Attributes:
        low: Lower ends, in the weight's units.
        high: Upper ends.
        centre: c, in the weight's units.
        frozen_bits: S.
        bound: b.
    """

    low: Array
    high: Array
    centre: Array
    frozen_bits: Bits
    bound: float


@dataclass(frozen=True)
class Flips:
    """What a later stage did to the bits that an earlier one froze.

    Attributes:
        earlier: Number of the stage that froze them.
        later: Number of the stage that was looked at.
        weights: Weights and biases outside the earlier stage's interval.
        bits: Frozen bits flipped in all: a weight has flipped m of its S if it is within 2^−(S−m) of the centre, and
            not within half of that.
        furthest: Greatest distance from the centre, in radii 2^−S of the weight's interval; 0 if all are inside.
    """

    earlier: int
    later: int
    weights: int
    bits: int
    furthest: float


@dataclass(frozen=True)
class Audit:
    """Whether frozen bits flipped.

    Attributes:
        stages: Numbers of the stages that were compared.
        parameters: Weights and biases compared.
        flips: One entry for each two stages.
    """

    stages: tuple[int, ...]
    parameters: int
    flips: tuple[Flips, ...]


def interval(centre: Array, frozen_bits: Bits, bound: float, total_bits: int) -> Intervals:
    """[c − 2^−S·b, c + 2^−S·b] inside ±(1 − 2^−N)·b; the centre alone where S = N."""
    grid = np.float32(2.0**total_bits)
    radius = np.ldexp(np.float32(1.0), -frozen_bits.astype(np.int32))
    radius[frozen_bits >= total_bits] = 0.0
    normalised = np.round(centre / np.float32(bound) * grid) / grid
    limit = np.float32(1 - 2.0**-total_bits)
    low, high = (np.clip(end, -limit, limit) * np.float32(bound) for end in (normalised - radius, normalised + radius))
    return Intervals(low.astype(np.float32), high.astype(np.float32), centre, frozen_bits, bound)


def compare(intervals: Intervals, weights: Array) -> tuple[int, int, float]:
    """Weights outside their interval, frozen bits they have flipped in all, greatest distance in radii."""
    # Not (inside) rather than (below or above): a weight that is no number is outside.
    outside = ~((weights >= intervals.low) & (weights <= intervals.high)) & (intervals.frozen_bits > 0)
    if not outside.any():
        return 0, 0, 0.0
    frozen = intervals.frozen_bits[outside].astype(np.int64)
    gone = np.abs(weights[outside].astype(np.float64) - intervals.centre[outside]) / intervals.bound
    radii = np.nan_to_num(np.ldexp(gone, frozen), nan=math.inf, posinf=math.inf)
    flipped = np.clip(np.ceil(np.log2(np.maximum(radii, 1.0))), 1, frozen)
    return int(outside.sum()), int(flipped.sum()), float(radii.max())


def audit_run(
    checkpoints: Sequence[Checkpoint], method: dict[str, Any], total_bits: int, problems: list[str]
) -> Audit | None:
    """Compare every two stages of a run whose method freezes bits.

    Args:
        checkpoints: Of one run, in the order of their stages.
        method: The method's settings.
        total_bits: N.
        problems: Extended by what cannot be audited.

    Returns:
        What was found; None where there are no intervals to compare.
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
    parameters = sum(math.prod(shape) for shape in usable[0].shapes.values())
    return Audit(
        tuple(checkpoint.stage for checkpoint in usable),
        parameters,
        tuple(_compare_all(usable, fan_bounds, total_bits)),
    )


def _compare_all(checkpoints: Sequence[Checkpoint], fan_bounds: bool, total_bits: int) -> list[Flips]:
    """One entry for each two stages, the earlier one first; one parameter in memory at a time."""
    pairs = [(i, j) for i in range(len(checkpoints)) for j in range(i + 1, len(checkpoints))]
    found: dict[tuple[int, int], list[tuple[int, int, float]]] = {pair: [] for pair in pairs}
    for name, shape in checkpoints[0].shapes.items():
        bound = _bound(shape, fan_bounds)
        for i, earlier in enumerate(checkpoints[:-1]):
            centre, frozen_bits = earlier.memory(f"{name}.centre"), earlier.memory(f"{name}.frozen_bits")
            intervals = interval(centre, frozen_bits, bound, total_bits)
            for j in range(i + 1, len(checkpoints)):
                found[i, j].append(compare(intervals, checkpoints[j].weights(name)))
    return [_total(checkpoints[i].stage, checkpoints[j].stage, results) for (i, j), results in found.items()]


def _total(earlier: int, later: int, results: list[tuple[int, int, float]]) -> Flips:
    weights, bits, furthest = zip(*results, strict=True)
    return Flips(earlier, later, sum(weights), sum(bits), max(furthest))


def _wrong_intervals(checkpoint: Checkpoint, total_bits: int) -> str | None:
    """Why a checkpoint cannot be audited; None if it can."""
    if not checkpoint.has_intervals:
        return "a weight has no centre and frozen bits of its shape"
    for name in checkpoint.shapes:
        frozen_bits = checkpoint.memory(f"{name}.frozen_bits")
        if frozen_bits.dtype != np.uint8 or frozen_bits.max(initial=0) > total_bits:
            return f"{name} has frozen bits that are no numbers from 0 to {total_bits}"
    return None


def _bound(shape: tuple[int, ...], fan_bounds: bool) -> float:
    """b: of weights 6/√max(outputs, inputs·kernel height·kernel width), or 1; of biases 1."""
    if len(shape) < 2 or not fan_bounds:
        return 1.0
    return 6.0 / math.sqrt(max(shape[0], math.prod(shape[1:])))
