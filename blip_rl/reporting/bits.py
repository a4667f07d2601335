"""Read the frozen bits of a run: per-layer means from ``bits.csv``, every weight's from the stage checkpoints."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from blip_rl.errors import UserError
from blip_rl.records import BitsRow
from blip_rl.reporting.checkpoints import stage_folders
from blip_rl.reporting.table import MAX_LAYERS, Array, load_rows, too_many_layers
from blip_rl.untrusted.machine import in_words, memory_bytes
from blip_rl.untrusted.tensors import TensorSpec, read_header

_SUFFIX = ".weight.frozen_bits"


@dataclass(frozen=True)
class BitBudget:
    """Frozen bits of the trunk's weights, without biases.

    Attributes:
        layers: Names, from input to output.
        stages: Numbers of the tasks after which bits were counted.
        mean_frozen: (stages, layers) mean over a layer's weights; NaN if not all of them were counted.
        weights: (layers,) number of weights.
    """

    layers: tuple[str, ...]
    stages: tuple[int, ...]
    mean_frozen: Array
    weights: npt.NDArray[np.int64]

    def overall(self) -> Array:
        """Return the (stages,) mean over all weights of the trunk."""
        return np.asarray(self.mean_frozen @ self.weights / self.weights.sum())

    def complete_stages(self) -> BitBudget:
        """Return the budget of the stages in which every layer was counted."""
        known = np.atleast_1d(np.isfinite(self.mean_frozen).all(axis=1))
        stages = tuple(stage for stage, counted in zip(self.stages, known, strict=True) if counted)
        return BitBudget(self.layers, stages, self.mean_frozen[known], self.weights)


@dataclass(frozen=True)
class BitMap:
    """Frozen bits of one layer after one task; ``frozen_bits`` has shape (output units, weights of a unit)."""

    layer: str
    stage: int
    frozen_bits: npt.NDArray[np.uint8]


def load_budget(run: Path, problems: list[str]) -> BitBudget | None:
    """Read ``bits.csv``; return None if it is missing or holds no frozen bits of weights."""
    rows = [row for row in load_rows(run / "bits.csv", BitsRow, problems) if row.parameter == "weight"]
    layers = tuple(dict.fromkeys(row.layer for row in rows))
    if not rows or too_many_layers("bits.csv", set(layers), problems):
        return None
    counts: dict[tuple[int, str], dict[int, int]] = defaultdict(dict)
    for row in rows:
        counts[row.stage, row.layer][row.frozen_bits] = row.count  # of duplicate rows the last one counts
    stages = tuple(sorted({row.stage for row in rows}))
    cells = [[counts.get((stage, layer), {}) for layer in layers] for stage in stages]
    frozen = np.array([[sum(bits * count for bits, count in cell.items()) for cell in line] for line in cells], float)
    counted = np.array([[sum(cell.values()) for cell in line] for line in cells], float)
    weights = counted.max(axis=0)
    # A layer is incomplete while its rows are being written.
    mean = frozen / np.where(counted == weights, counted, np.nan)
    return BitBudget(layers, stages, mean, weights.astype(np.int64))


def load_bit_maps(run: Path, problems: list[str]) -> list[BitMap]:
    """Read the frozen bits of every weight from the stage checkpoints, in order of stage and layer.

    Only these tensors are read: a checkpoint may hold hundreds of megabytes.
    """
    maps: list[BitMap] = []
    left = memory_bytes() // 8
    for stage, folder in stage_folders(run).items():
        path = folder / "method.safetensors"
        try:
            maps.extend(_stage_maps(path, stage, left))
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            problems.append(f"checkpoints/{folder.name}/{path.name} cannot be read: {error}")
        left = memory_bytes() // 8 - sum(one.frozen_bits.nbytes for one in maps)
    return maps


def _stage_maps(path: Path, stage: int, most_bytes: int) -> list[BitMap]:
    """Read the maps of one stage.

    Raises:
        UserError: Not a safetensors file, too many layers, or maps larger than ``most_bytes`` together.
    """
    maps = {name: spec for name, spec in read_header(path).items() if _is_map(name, spec)}
    size = sum(spec.size for spec in maps.values())
    if len(maps) > MAX_LAYERS or size > most_bytes:
        raise UserError(f"{len(maps):,} maps of {in_words(size)}: expected at most {MAX_LAYERS} that fit into memory")
    with safe_open(path, framework="numpy") as file:
        tensors = {name.removesuffix(_SUFFIX): np.asarray(file.get_tensor(name)) for name in sorted(maps)}
    return [BitMap(layer, stage, bits.reshape(len(bits), -1)) for layer, bits in tensors.items()]


def _is_map(name: str, spec: TensorSpec) -> bool:
    return name.endswith(_SUFFIX) and spec.dtype == "U8" and len(spec.shape) > 1 and spec.size > 0
