"""Read stage checkpoints: their metadata, and tensors as numpy arrays, one at a time to limit memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from safetensors import SafetensorError, safe_open

from blip_rl.errors import UserError, first_problem
from blip_rl.records import MAX_STEPS
from blip_rl.untrusted.files import MOST_TASKS, read_json
from blip_rl.untrusted.machine import check_memory
from blip_rl.untrusted.tensors import TensorSpec, read_header

_WEIGHT = ".weight"
_MOST_LINES, _LONGEST_LINE = 100, 300  # of a description
_COPIES = 8  # arrays of a parameter's size that exist while two stages are compared


class StageMetadata(BaseModel):
    """Contents of ``stage.json`` that the report uses.

    Attributes:
        stage: Number of the stage.
        env_steps: Training steps of the whole run at its end; None if not recorded.
        method: JSON values of the method's state; None if the checkpoint was published to be played without it.
        description: Lines in which the method describes its state; None in a checkpoint of an earlier version.
    """

    stage: Annotated[int, Field(strict=True, ge=1, le=MOST_TASKS)]
    env_steps: Annotated[int, Field(strict=True, ge=0, le=MAX_STEPS)] | None = None
    method: dict[str, Any] | None
    description: list[str] | None = None


def read_metadata(stage: Path) -> StageMetadata:
    """Read ``stage.json`` in a stage folder.

    Raises:
        UserError: It is missing or invalid.
    """
    try:
        return StageMetadata.model_validate(read_json(stage / "stage.json"))
    except ValidationError as error:
        raise UserError(f"stage.json: {first_problem(error)}") from error


@dataclass(frozen=True)
class FirstTask:
    """Bits frozen by the first task with the run's Fisher prior.

    Attributes:
        prior: F₀.
        informed_bits: Mean of frozen bits over the weights with Fisher information.
        bits: Mean of frozen bits over all weights.
        drift: Bound on how far the policy can diverge inside the intervals, in nats, to second order.
    """

    prior: FiniteFloat
    informed_bits: FiniteFloat
    bits: FiniteFloat
    drift: FiniteFloat


@dataclass(frozen=True)
class Information:
    """Fisher information of a run; empty for runs of versions that did not record it.

    Attributes:
        shares: Stage → layer → share of its weights without any information from that stage's task.
        first_task: None if not recorded.
    """

    shares: dict[int, dict[str, float]] = field(default_factory=dict)
    first_task: FirstTask | None = None


class _StageInformation(BaseModel):
    without_information: dict[str, Annotated[float, Field(strict=True, ge=0, le=1)]] | None = None
    first_task: FirstTask | None = None


def load_information(run: Path) -> Information:
    """Read the Fisher information in ``stage.json`` of every stage; skip what cannot be read or is out of range."""
    shares: dict[int, dict[str, float]] = {}
    first_task = None
    for stage, folder in stage_folders(run).items():
        try:
            found = _StageInformation.model_validate(read_metadata(folder).method)
        except (UserError, ValidationError):
            continue  # damaged checkpoints are reported where their tensors are read
        first_task = first_task or found.first_task
        known = found.without_information or {}
        if layers := {n.removesuffix(_WEIGHT): share for n, share in known.items() if n.endswith(_WEIGHT)}:
            shares[stage] = layers
    return Information(shares, first_task)


class Checkpoint:
    """One stage checkpoint, memory-mapped.

    Attributes:
        stage: Its number.
        shapes: Name of each trunk parameter → its shape.
        values: JSON values of the method's state.
        plays_only: Whether it was published to be played, without the method's state.
    """

    def __init__(self, path: Path) -> None:
        """Open a stage folder and check its files.

        Raises:
            UserError: A file is missing, truncated or not that of a checkpoint.
        """
        try:
            metadata = read_metadata(path)
            self.stage, self.values, self._description = metadata.stage, metadata.method or {}, metadata.description
            self.plays_only = metadata.method is None
            policy, self._kept = (_header(path / f"{name}.safetensors") for name in ("policy", "method"))
            # Memory-mapped: the bytes of a tensor are read on access.
            self._policy: Any = safe_open(path / "policy.safetensors", framework="np")
            self._method: Any = safe_open(path / "method.safetensors", framework="np")
            trunk = {name: spec for name, spec in policy.items() if name.startswith("trunk.")}
            if not trunk or any(spec.dtype not in ("F32", "F16") or not spec.size for spec in trunk.values()):
                raise ValueError("it has no trunk with float32 or float16 weights")
        except (OSError, ValueError, SafetensorError) as error:
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
        if self._description is not None:
            return [line[:_LONGEST_LINE] for line in self._description[:_MOST_LINES]]
        size = sum(spec.size for spec in self._kept.values())
        return [f"method state: {size / 1e6:.2f} MB, tensors: {len(self._kept)}"] if self._kept else []

    def weights(self, name: str) -> npt.NDArray[np.float32]:
        """Return one trunk parameter."""
        weights: npt.NDArray[Any] = self._policy.get_tensor(f"trunk.{name}")
        return weights.astype(np.float32, copy=False)

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


def _header(path: Path) -> dict[str, TensorSpec]:
    """Read a file's header and check that its largest tensor, the most that is read at once, fits into memory."""
    header = read_header(path)
    largest = max((spec.size for spec in header.values()), default=0)
    check_memory(f"'{path}'", {"its largest tensor": _COPIES * largest}, "it is not what blip-rl writes")
    return header
