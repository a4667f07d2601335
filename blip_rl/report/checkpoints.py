"""Stage checkpoints as arrays, without torch: tensors are read one at a time, so that a run of any length fits."""

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
"""Of one weight: what a float32 holds exactly between its bounds; more than any recipe may ask for."""
_MOST_LINES, _LONGEST_LINE = 100, 300  # of a description
_COPIES = 8  # of one parameter while it is compared


class Checkpoint:
    """One stage of a run.

    Attributes:
        stage: Its number.
        shapes: Name of each trunk parameter → its shape.
        values: The plain values that the method remembers.
        description: Lines in which the method describes its state; None in a checkpoint of an earlier version.
    """

    def __init__(self, path: Path) -> None:
        """Open a stage folder and check that it is whole.

        Raises:
            UserError: a file is missing, cut off, or belongs elsewhere.
        """
        try:
            metadata = read_json(path / "stage.json")
            self.stage = _stage_number(metadata["stage"])
            self.values: dict[str, Any] = dict(metadata["method"])
            self.description = _lines(metadata.get("description"))
            policy, self._kept = (_header(path / f"{name}.safetensors") for name in ("policy", "method"))
            # Memory-mapped: a tensor's bytes are read when it is asked for.
            self._policy: Any = safe_open(path / "policy.safetensors", framework="np")
            self._method: Any = safe_open(path / "method.safetensors", framework="np")
            trunk = {name: spec for name, spec in policy.items() if name.startswith("trunk.")}
            if not trunk or any(spec.dtype != "F32" or not spec.size for spec in trunk.values()):
                raise ValueError("it holds no trunk of float32 weights")
        except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
            raise UserError(f"checkpoint '{path}' cannot be read: {error}") from error
        self.shapes = {name.removeprefix("trunk."): spec.shape for name, spec in trunk.items()}

    @property
    def has_intervals(self) -> bool:
        """Whether every trunk parameter has frozen bits, in a byte each, and a float32 centre of its own shape."""
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
    numbered = {int(number): path for path, number in named.items() if number.isascii() and number.isdecimal()}
    return {number: numbered[number] for number in sorted(numbered)[:MOST_TASKS]}


def _stage_number(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_TASKS:
        raise ValueError(f"stage {number!r}: expected 1 to {MOST_TASKS}")
    return number


def _lines(described: Any) -> list[str] | None:
    """Return a description from a file that a stranger may have written, cut to a readable length."""
    if described is None:
        return None
    if not isinstance(described, list):
        raise TypeError("its description is not a list of lines")
    return [str(line)[:_LONGEST_LINE] for line in described[:_MOST_LINES]]


def _header(path: Path) -> dict[str, TensorSpec]:
    """What a file holds, none of it too large to be looked at: its largest tensor is the most that is ever read."""
    header = read_header(path)
    largest = max((spec.size for spec in header.values()), default=0)
    check_memory(f"'{path}'", {"its largest tensor": _COPIES * largest}, "it is not what blip-rl writes")
    return header
