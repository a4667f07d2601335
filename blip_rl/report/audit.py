"""Did a frozen bit flip? Each stage's intervals against the weights of every later stage.

Numpy alone, from the stage checkpoints, one parameter of one stage in memory at a time. The intervals are those of
:func:`blip_rl.core.bits.interval` (BLIP Eq. 4), in the same float32 arithmetic, so that a weight on the very edge of
its interval is inside here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


def audit(checkpoints: Sequence[Checkpoint], bound: Callable[[str], float], total_bits: int) -> list[Flips]:
    """Compare every two stages.

    Args:
        checkpoints: Of one run, in the order of their stages; all with centres.
        bound: Name of a parameter → b.
        total_bits: N.

    Returns:
        One entry for each pair, the earlier stage first.
    """
    pairs = [(i, j) for i in range(len(checkpoints)) for j in range(i + 1, len(checkpoints))]
    found: dict[tuple[int, int], list[tuple[int, int, float]]] = {pair: [] for pair in pairs}
    for name in checkpoints[0].shapes if checkpoints else ():
        for i, earlier in enumerate(checkpoints[:-1]):
            centre, frozen_bits = earlier.memory(f"{name}.centre"), earlier.memory(f"{name}.frozen_bits")
            intervals = interval(centre, frozen_bits, bound(name), total_bits)
            for j in range(i + 1, len(checkpoints)):
                found[i, j].append(compare(intervals, checkpoints[j].weights(name)))
    return [_total(checkpoints[i].stage, checkpoints[j].stage, results) for (i, j), results in found.items()]


def _total(earlier: int, later: int, results: list[tuple[int, int, float]]) -> Flips:
    weights, bits, furthest = zip(*results, strict=True)
    return Flips(earlier, later, sum(weights), sum(bits), max(furthest))
