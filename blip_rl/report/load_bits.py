"""Read back how many bits a run froze: the budget from ``bits.csv``, the maps from the stage checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from blip_rl.report.checkpoints import stage_folders
from blip_rl.report.table import Array, Table, read_table

_SUFFIX = ".weight.frozen_bits"


@dataclass(frozen=True)
class BitBudget:
    """Frozen bits of the trunk's weights, biases left out.

    Attributes:
        layers: Names, from the input on.
        stages: Numbers of the tasks after which bits were counted.
        mean_frozen: (stages, layers) mean over a layer's weights; NaN where not all of them were counted.
        weights: (layers,) how many weights a layer has.
    """

    layers: tuple[str, ...]
    stages: tuple[int, ...]
    mean_frozen: Array
    weights: npt.NDArray[np.int64]

    def overall(self) -> Array:
        """(stages,) mean over all weights of the trunk."""
        return np.asarray(self.mean_frozen @ self.weights / self.weights.sum())

    def whole(self) -> BitBudget:
        """The stages at which every layer was counted."""
        known = np.atleast_1d(np.isfinite(self.mean_frozen).all(axis=1))
        stages = tuple(stage for stage, counted in zip(self.stages, known, strict=True) if counted)
        return BitBudget(self.layers, stages, self.mean_frozen[known], self.weights)


@dataclass(frozen=True)
class BitMap:
    """One layer's frozen bits after one task, a row for each output unit. Shape (units, weights of a unit)."""

    layer: str
    stage: int
    frozen_bits: npt.NDArray[np.uint8]


def load_budget(run: Path, problems: list[str]) -> BitBudget | None:
    """Read ``bits.csv``; None where it is missing, or where the method froze nothing."""
    columns = ("stage", "frozen_bits", "count")
    table = read_table(run / "bits.csv", columns, ("layer", "parameter"), problems)
    if table is None:
        return None
    table = table.where("parameter", "weight")
    layers = tuple(dict.fromkeys(table.words["layer"]))
    stages = tuple(sorted({int(stage) for stage in table.numbers["stage"] if np.isfinite(stage)}))
    if not layers or not stages:
        return None
    frozen, counted = np.stack([_layer(table.where("layer", layer), stages) for layer in layers], axis=2)
    weights = counted.max(axis=0)
    whole = np.where((counted == weights) & (weights > 0), counted, np.nan)
    return BitBudget(layers, stages, frozen / whole, weights.astype(np.int64))


def _layer(rows: Table, stages: tuple[int, ...]) -> Array:
    """(2, stages) frozen bits of all weights together, and how many weights; of rows written twice the later stands."""
    counts: dict[float, dict[float, float]] = {stage: {} for stage in stages}
    for row in zip(*(rows.numbers[name] for name in ("stage", "frozen_bits", "count")), strict=True):
        if np.isfinite(row).all():
            stage, bits, count = row
            counts[stage][bits] = count
    frozen = [sum(bits * count for bits, count in counts[stage].items()) for stage in stages]
    return np.array([frozen, [sum(counts[stage].values()) for stage in stages]])


def load_bit_maps(run: Path, problems: list[str]) -> list[BitMap]:
    """Read the frozen bits of every weight from the stage checkpoints, from the first stage and layer on.

    One layer of one stage is read at a time, and nothing else of a checkpoint, which may hold hundreds of megabytes.
    """
    maps: list[BitMap] = []
    for stage, folder in stage_folders(run).items():
        path = folder / "method.safetensors"
        try:
            maps.extend(_stage_maps(path, stage))
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            problems.append(f"checkpoints/{folder.name}/{path.name} cannot be read: {error}")
    return maps


def _stage_maps(path: Path, stage: int) -> list[BitMap]:
    with safe_open(path, framework="numpy") as file:
        layers = sorted(name.removesuffix(_SUFFIX) for name in file.keys() if name.endswith(_SUFFIX))  # noqa: SIM118
        tensors = [(layer, file.get_tensor(layer + _SUFFIX)) for layer in layers]
    return [
        BitMap(layer, stage, np.asarray(bits).reshape(len(bits), -1))
        for layer, bits in tensors
        if bits.ndim > 1 and bits.size and bits.dtype == np.uint8
    ]
