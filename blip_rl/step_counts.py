"""Step counts as people write them (``500k``, ``10M``), and how many steps a task really takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LONGEST_STEP_COUNT = 40  # characters; recipes may be untrusted, and the pattern backtracks
_STEP_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "b": 1_000_000_000}


def parse_steps(value: object) -> int:
    """Parse a step count: ``50000``, ``"500k"``, ``"10M"``, ``"1e6"``, ``"2_000"``.

    Raises:
        ValueError: Not a whole number between 1 and 10¹⁵.
    """
    rule = "expected a whole number of steps of at least 1, for example 500000, 500k, 10M or 1e6"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r}: {rule}")
    text = str(value).strip()
    match = re.fullmatch(r"([-+]?[\d_]*\.?\d+(?:[eE][-+]?\d{1,3})?)\s*([kKmMgGbB]?)", text[:_LONGEST_STEP_COUNT])
    if match is None or len(text) > _LONGEST_STEP_COUNT:
        raise ValueError(f"{value!r}: {rule}")
    steps = float(match[1].replace("_", "")) * _STEP_SUFFIXES[match[2].lower()]
    if steps < 1 or steps > 1e15 or steps != int(steps):
        raise ValueError(f"{value!r}: {rule}")
    return int(steps)


def played_steps(steps: int, environments: int, rollout_steps: int, distilled: Sequence[int] = ()) -> int:
    """Return the steps that a task takes: it is learned in whole rollouts, and all environments step at once.

    Args:
        steps: Steps of the task in its recipe.
        environments: Number of environments.
        rollout_steps: Steps of one environment in a rollout.
        distilled: Those of ``steps`` that are played for distilling after learning, in each phase.
    """
    rollout = environments * rollout_steps
    learned = -(-(steps - sum(distilled)) // rollout) * rollout
    return learned + sum(-(-states // environments) * environments for states in distilled)


def short_steps(steps: float, _position: int | None = None) -> str:
    """Format steps with a unit prefix: ``0``, ``50k``, ``1.5M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:.4g}{unit}"
    return f"{steps:.4g}"
