"""Stage checkpoints as arrays, without torch: tensors are read one at a time, so that a run of any length fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from blip_rl.errors import UserError


class Checkpoint:
    """One stage of a run.

    Attributes:
        stage: Its number.
        shapes: Name of each trunk parameter → its shape.
        values: The plain values that the method remembers.
        memory_shapes: Name of each tensor that the method remembers → its shape.
    """

    def __init__(self, path: Path) -> None:
        """Open a stage folder and check that it is whole.

        Raises:
            UserError: a file is missing, cut off, or belongs elsewhere.
        """
        try:
            facts = json.loads((path / "stage.json").read_text(encoding="utf-8"))
            self.stage: int = int(facts["stage"])
            self.values: dict[str, Any] = dict(facts["method"])
            # Memory-mapped: a tensor's bytes are read when it is asked for.
            self._policy: Any = safe_open(path / "policy.safetensors", framework="np")
            self._method: Any = safe_open(path / "method.safetensors", framework="np")
            shapes = _shapes(self._policy)
            self.memory_shapes = _shapes(self._method)
        except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"checkpoint '{path}' cannot be read: {error}") from error
        self.shapes = {
            name.removeprefix("trunk."): shape for name, shape in shapes.items() if name.startswith("trunk.")
        }
        if not self.shapes:
            raise UserError(f"checkpoint '{path}' cannot be read: it holds no trunk")

    @property
    def has_intervals(self) -> bool:
        """Whether every trunk parameter has frozen bits and a centre of its own shape."""
        return all(
            self.memory_shapes.get(f"{name}.{kind}") == shape
            for name, shape in self.shapes.items()
            for kind in ("frozen_bits", "centre")
        )

    def weights(self, name: str) -> npt.NDArray[np.float32]:
        """One trunk parameter."""
        weights: npt.NDArray[np.float32] = self._policy.get_tensor(f"trunk.{name}")
        return weights

    def memory(self, name: str) -> npt.NDArray[Any]:
        """One tensor that the method remembers."""
        tensor: npt.NDArray[Any] = self._method.get_tensor(name)
        return tensor


def open_checkpoints(run: Path) -> tuple[list[Checkpoint], list[str]]:
    """Every stage of a run that can be read, in order, and what is wrong with the others."""
    found: list[Checkpoint] = []
    problems: list[str] = []
    for path in stage_folders(run).values():
        try:
            checkpoint = Checkpoint(path)
            if found and checkpoint.shapes != found[0].shapes:
                raise UserError(f"checkpoint '{path}' holds another network than stage {found[0].stage}'s")
        except UserError as error:
            problems.append(f"{error}; left out")
        else:
            found.append(checkpoint)
    return found, problems


def stage_folders(run: Path) -> dict[int, Path]:
    """Number of each stage that has a checkpoint, rising → its folder."""
    named = {path: path.name.removeprefix("stage-") for path in (run / "checkpoints").glob("stage-*")}
    return dict(sorted((int(number), path) for path, number in named.items() if number.isdecimal()))


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a mapping
