"""JSON metadata of checkpoints and snapshots: how it is read, and the tasks and spaces that it describes.

The JSON may come from an untrusted source, so sizes are bounded before a space is built.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import numpy as np
from gymnasium import spaces
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from blip_rl.config import RunConfig
from blip_rl.errors import UserError, first_problem
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.untrusted.files import MOST_TASKS, read_json

_MOST_ACTIONS = 65_536
_MOST_ENTRIES = 10_000_000

Model = TypeVar("Model", bound=BaseModel)
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
"""A whole number, neither a boolean nor a text."""
StageNumber = Annotated[int, Field(strict=True, ge=1, le=MOST_TASKS)]


def read_metadata(path: Path, model: type[Model]) -> Model:
    """Read and validate a JSON file.

    Raises:
        UserError: It cannot be read or is invalid; the message names the file and the value.
    """
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"'{path}' cannot be read: {first_problem(error)}") from None


class Discrete(BaseModel):
    """A ``Discrete`` space."""

    kind: Literal["discrete"]
    n: Annotated[int, Field(strict=True, ge=1, le=_MOST_ACTIONS)]
    start: Annotated[int, Field(strict=True, ge=-(2**31), le=2**53)]

    def space(self) -> spaces.Discrete:
        """Build the space."""
        return spaces.Discrete(self.n, start=self.start)


_DType = Literal["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


class Box(BaseModel):
    """A ``Box`` space.

    Attributes:
        low: Lower bound of every entry, or one for all, as of images. Text, because JSON has no infinity.
        high: Upper bounds.
    """

    kind: Literal["box"]
    shape: Annotated[list[Annotated[int, Field(strict=True, ge=1)]], Field(max_length=3)]
    dtype: _DType
    low: list[str]
    high: list[str]

    @model_validator(mode="after")
    def _check_bounds(self) -> Box:
        if math.prod(self.shape) > _MOST_ENTRIES:
            raise ValueError(f"expected at most {_MOST_ENTRIES:,} entries")
        self._bounds(self.low), self._bounds(self.high)
        return self

    def _bounds(self, texts: list[str]) -> np.ndarray:
        bounds, dtype = np.array([float(text) for text in texts]), np.dtype(self.dtype)
        if len(bounds) not in (1, math.prod(self.shape)):
            raise ValueError(f"{len(bounds):,} bounds: expected one, or one for each entry")
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        if np.isnan(bounds).any() or (limits and not ((bounds >= limits.min) & (bounds <= limits.max)).all()):
            raise ValueError(f"expected bounds within {dtype}")
        return np.broadcast_to(bounds if len(bounds) == 1 else bounds.reshape(self.shape), self.shape).astype(dtype)

    def space(self) -> spaces.Box:
        """Build the space."""
        return spaces.Box(self._bounds(self.low), self._bounds(self.high), tuple(self.shape), np.dtype(self.dtype).type)


Space = Annotated[Discrete | Box, Field(discriminator="kind")]


def _printable(name: str) -> str:
    if not name.replace(".", "_").isprintable():
        raise ValueError("expected printable characters")
    return name


class TaskMetadata(BaseModel):
    """Name and action space of a task that the policy has a head for."""

    name: Annotated[str, AfterValidator(_printable)]
    action_space: Space


class PolicyMetadata(BaseModel):
    """What a policy was built for."""

    observation_space: Space
    tasks: Annotated[list[TaskMetadata], Field(min_length=1)]

    def task_spaces(self, config: RunConfig) -> list[tuple[str, spaces.Space[Any]]]:
        """Return the names and action spaces of the tasks.

        Raises:
            ValueError: There are more tasks than in the recipe.
        """
        if len(self.tasks) > len(config.tasks):
            raise ValueError(f"{len(self.tasks)} tasks: the recipe has {len(config.tasks)}")
        return [(task.name, task.action_space.space()) for task in self.tasks]


def describe_policy(policy: ContinualPolicy) -> dict[str, Any]:
    """Return the fields of :class:`PolicyMetadata` as JSON values."""
    return {
        "observation_space": _describe(policy.observation_space),
        "tasks": [
            {"name": name, "action_space": _describe(policy.module_of(task).action_space)}
            for task, name in enumerate(policy.task_names)
        ],
    }


def check_observation_type(task: str, space: spaces.Space[Any]) -> None:
    """Check that checkpoints can describe a task's observations.

    Raises:
        UserError: Their type is not one of those that :class:`Box` reads.
    """
    if str(space.dtype) not in get_args(_DType):
        raise UserError(
            f"task {task!r} has observations of type {space.dtype}: expected one of {', '.join(get_args(_DType))} "
            "(convert them with a wrapper)"
        )


def _describe(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    box = cast(spaces.Box, space)
    low, high = (np.unique(side) for side in (box.low, box.high))
    return {
        "kind": "box",
        "shape": list(box.shape),
        "dtype": str(box.dtype),
        "low": [str(value) for value in (low if len(low) == 1 else box.low.ravel())],
        "high": [str(value) for value in (high if len(high) == 1 else box.high.ravel())],
    }
