"""Conversion of observation and action spaces to JSON and back, to rebuild a policy from a checkpoint.

The JSON may come from an untrusted source, so sizes are bounded before a space is built.
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
    """Return the observation space and each task's name and action space as JSON values."""
    return {
        "observation_space": describe(policy.observation_space),
        "tasks": [
            {"name": name, "action_space": describe(policy.module_of(task).action_space)}
            for task, name in enumerate(policy.task_names)
        ],
    }


def known_tasks(metadata: dict[str, Any], most: int) -> list[tuple[str, spaces.Space[Any]]]:
    """Parse the names and action spaces written by :func:`describe_tasks`.

    Args:
        metadata: JSON values with the key ``tasks``.
        most: Maximum number of tasks.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: The values are malformed.
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
    """Return a ``Discrete`` or ``Box`` space as JSON values."""
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    box = cast(spaces.Box, space)
    low, high = (np.unique(side) for side in (box.low, box.high))
    return {
        "kind": "box",
        "shape": list(box.shape),
        "dtype": str(box.dtype),
        # A uniform bound, as of images, is stored once. Stored as text because JSON has no infinity.
        "low": [str(value) for value in (low if len(low) == 1 else box.low.ravel())],
        "high": [str(value) for value in (high if len(high) == 1 else box.high.ravel())],
    }


def space(described: dict[str, Any]) -> spaces.Space[Any]:
    """Parse a space written by :func:`describe`.

    Raises:
        LookupError, TypeError, ValueError, ArithmeticError: The values are malformed or the space is too large.
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
    """Return ``value`` if it is an integer from ``lowest`` to ``highest``.

    Raises:
        ValueError: It is not; booleans are refused, too.
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
