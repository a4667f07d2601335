"""How many more tasks fit into a layer's free bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_FULL_BELOW = 1.0
_RATES_USED = 3
FORECAST_RULE = (
    f"full = less than {_FULL_BELOW:g} free bit per weight on average; each further task is taken to leave the share "
    f"of the free bits that the last ones left (geometric mean of up to {_RATES_USED}; the first task counts only "
    "where it is the only one)"
)


@dataclass(frozen=True)
class Forecast:
    """When a layer will be full.

    Attributes:
        kept_per_task: Share of the free bits that a task leaves free.
        full_after_task: Number of the task; None if the layer does not fill up.
    """

    kept_per_task: float
    full_after_task: int | None


def forecast(free: Sequence[float], stages: Sequence[int], total_bits: int) -> Forecast:
    """Extrapolate a layer's free bits geometrically; see ``FORECAST_RULE``.

    Args:
        free: Mean of free bits after each stage, at least one.
        stages: The stages' numbers, rising.
        total_bits: N, what was free before the first.
    """
    before = [(0, float(total_bits)), *zip(stages, free, strict=True)]
    kept = [(now / was) ** (1 / (stage - last)) if was > 0 else 1.0 for (last, was), (stage, now) in pairwise(before)]
    used = (kept[1:] or kept)[-_RATES_USED:]
    rate = math.prod(used) ** (1 / len(used))
    if free[-1] < _FULL_BELOW:
        return Forecast(rate, stages[-1])
    if rate >= 1:
        return Forecast(rate, None)
    tasks = 1 if rate == 0 else math.floor(math.log(_FULL_BELOW / free[-1]) / math.log(rate)) + 1
    return Forecast(rate, stages[-1] + tasks)
