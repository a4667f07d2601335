"""Spaces and tasks in JSON's terms, and back: what a policy is built from again.

What comes back may come from a stranger: nothing is built that is larger than any game's.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from gymnasium import spaces

from blip_rl.learner.policy import ContinualPolicy

_MOST_ACTIONS = 65_536
_MOST_ENTRIES = 10_000_000
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


def describe_tasks(policy: ContinualPolicy) -> dict[str, Any]:
    """Observations, and each task's name and actions."""
    return {
        "observation_space": describe(policy.observation_space),
        "tasks": [
            {"name": name, "action_space": describe(cast(Any, module).action_space)}
            for name, module in zip(policy.task_names, policy.tasks, strict=True)
        ],
    }


def known_tasks(metadata: dict[str, Any], most: int) -> list[tuple[str, spaces.Space[Any]]]:
    """Names and action spaces of what :func:`describe_tasks` returned.

    Args:
        metadata: What it returned.
        most: Tasks that there can be.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: it returned something else.
    """
    tasks = metadata["tasks"]
    if not isinstance(tasks, list) or not 1 <= len(tasks) <= most:
        raise ValueError(f"tasks: expected a list of 1 to {most}, as many as the recipe has")
    return [(_name(task["name"]), space(task["action_space"])) for task in tasks]


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.replace(".", "_").isprintable():
        raise ValueError(f"a task named {str(name)[:80]!r}")
    return name


def describe(space: spaces.Space[Any]) -> dict[str, Any]:
    """A ``Discrete`` or ``Box`` space as JSON values."""
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    box = cast(spaces.Box, space)
    low, high = (np.unique(side) for side in (box.low, box.high))
    return {
        "kind": "box",
        "shape": list(box.shape),
        "dtype": str(box.dtype),
        # Bounds that are the same everywhere, as an image's are, take one number. JSON has no infinity: text does.
        "low": [str(value) for value in (low if len(low) == 1 else box.low.ravel())],
        "high": [str(value) for value in (high if len(high) == 1 else box.high.ravel())],
    }


def space(described: dict[str, Any]) -> spaces.Space[Any]:
    """What :func:`describe` described.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: it is no description, or one of a space larger than any
            game's.
    """
    if described["kind"] == "discrete":
        return spaces.Discrete(
            checked_int(described["n"], 1, _MOST_ACTIONS), start=checked_int(described["start"], -(2**31))
        )
    dtype, sides = described["dtype"], described["shape"]
    if dtype not in _DTYPES or not isinstance(sides, list) or len(sides) > 3:
        raise ValueError(f"a space of {str(dtype)[:20]} with {len(sides)} dimensions: expected numbers, at most 3")
    shape = tuple(checked_int(side, 1, _MOST_ENTRIES) for side in sides)
    if math.prod(shape) > _MOST_ENTRIES:
        raise ValueError(f"a space of {shape}: expected at most {_MOST_ENTRIES:,} entries")
    low, high = (_bounds(described[side], np.dtype(dtype), shape) for side in ("low", "high"))
    return spaces.Box(low, high, shape, np.dtype(dtype).type)


def checked_int(value: object, lowest: int, highest: int = 2**53) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{str(value)[:80]}: expected a whole number from {lowest} to {highest}")
    return value


def _bounds(values: list[str], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.array([float(value) for value in values])
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        if not ((numbers >= limits.min) & (numbers <= limits.max)).all():
            raise ValueError(f"bounds beyond {dtype}")
    numbers = numbers.astype(dtype)
    if np.isnan(numbers).any() or len(numbers) not in (1, math.prod(shape)):
        raise ValueError(f"{len(numbers):,} bounds of a space of {shape}: expected one, or one for each entry")
    return np.broadcast_to(numbers[0], shape).copy() if len(numbers) == 1 else numbers.reshape(shape)
