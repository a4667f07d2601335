"""Read stage checkpoints as numpy arrays, one tensor at a time to limit memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from blip_rl.errors import UserError
from blip_rl.untrusted.files import MOST_TASKS, read_json
from blip_rl.untrusted.machine import check_memory
from blip_rl.untrusted.tensors import TensorSpec, read_header

MAX_BITS = 22
"""Upper limit on the bits of a weight: the grid that float32 represents exactly; above every recipe's limit."""
_MOST_LINES, _LONGEST_LINE = 100, 300  # of a description
_COPIES = 8  # arrays of a parameter's size that exist while two stages are compared


class Checkpoint:
    """One stage checkpoint, memory-mapped.

    Attributes:
        stage: Its number.
        shapes: Name of each trunk parameter → its shape.
        values: JSON values of the method's state.
        description: Lines in which the method describes its state; None in a checkpoint of an earlier version.
    """

    def __init__(self, path: Path) -> None:
        """Open a stage folder and check its files.

        Raises:
            UserError: A file is missing, truncated or not that of a checkpoint.
        """
        try:
            metadata = read_json(path / "stage.json")
            self.stage = _stage_number(metadata["stage"])
            self.values: dict[str, Any] = dict(metadata["method"])
            self.description = _lines(metadata.get("description"))
            policy, self._kept = (_header(path / f"{name}.safetensors") for name in ("policy", "method"))
            # Memory-mapped: the bytes of a tensor are read on access.
            self._policy: Any = safe_open(path / "policy.safetensors", framework="np")
            self._method: Any = safe_open(path / "method.safetensors", framework="np")
            trunk = {name: spec for name, spec in policy.items() if name.startswith("trunk.")}
            if not trunk or any(spec.dtype != "F32" or not spec.size for spec in trunk.values()):
                raise ValueError("it has no trunk with float32 weights")
        except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"checkpoint '{path}' cannot be read: {error}") from error
        self.shapes = {name.removeprefix("trunk."): spec.shape for name, spec in trunk.items()}

    @property
    def has_intervals(self) -> bool:
        """Whether every trunk parameter has uint8 frozen bits and a float32 centre of its shape."""
        return all(
            self._kept.get(f"{name}.{kind}") == TensorSpec(dtype, shape)
            for name, shape in self.shapes.items()
            for kind, dtype in (("frozen_bits", "U8"), ("centre", "F32"))
        )

    def method_state(self) -> list[str]:
        """Return the method's own description of its state, or else the number and size of its tensors."""
        if self.description is not None:
            return self.description
        size = sum(spec.size for spec in self._kept.values())
        return [f"method state: {size / 1e6:.2f} MB, tensors: {len(self._kept)}"] if self._kept else []

    def weights(self, name: str) -> npt.NDArray[np.float32]:
        """Return one trunk parameter."""
        weights: npt.NDArray[np.float32] = self._policy.get_tensor(f"trunk.{name}")
        return weights

    def memory(self, name: str) -> npt.NDArray[Any]:
        """Return one tensor of the method's state."""
        tensor: npt.NDArray[Any] = self._method.get_tensor(name)
        return tensor


def open_checkpoints(run: Path) -> tuple[list[Checkpoint], list[str]]:
    """Return the readable checkpoints of a run in order of their stages, and messages about the others."""
    found: list[Checkpoint] = []
    problems: list[str] = []
    for path in stage_folders(run).values():
        try:
            checkpoint = Checkpoint(path)
            if found and checkpoint.shapes != found[0].shapes:
                raise UserError(f"checkpoint '{path}' has other trunk shapes than stage {found[0].stage}")
        except UserError as error:
            problems.append(f"{error}; left out")
        else:
            found.append(checkpoint)
    return found, problems


def stage_folders(run: Path) -> dict[int, Path]:
    """Return stage number → checkpoint folder, in increasing order."""
    named = {path: path.name.removeprefix("stage-") for path in (run / "checkpoints").glob("stage-*")}
    numbered = {int(number): path for path, number in named.items() if number.isascii() and number.isdecimal()}
    return {number: numbered[number] for number in sorted(numbered)[:MOST_TASKS]}


def _stage_number(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_TASKS:
        raise ValueError(f"stage {number!r}: expected 1 to {MOST_TASKS}")
    return number


def _lines(described: Any) -> list[str] | None:
    """Check the description, which is untrusted input, and truncate it."""
    if described is None:
        return None
    if not isinstance(described, list):
        raise TypeError("its description is not a list of lines")
    return [str(line)[:_LONGEST_LINE] for line in described[:_MOST_LINES]]


def _header(path: Path) -> dict[str, TensorSpec]:
    """Read a file's header and check that its largest tensor, the most that is read at once, fits into memory."""
    header = read_header(path)
    largest = max((spec.size for spec in header.values()), default=0)
    check_memory(f"'{path}'", {"its largest tensor": _COPIES * largest}, "it is not what blip-rl writes")
    return header
