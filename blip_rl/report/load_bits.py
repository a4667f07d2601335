"""Read back how many bits a run froze: the budget from ``bits.csv``, the maps from the stage checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from blip_rl.report.table import Array, Table, read_table

_SUFFIX = ".weight.frozen_bits"


@dataclass(frozen=True)
class BitBudget:
    """Frozen bits of the trunk's weights, biases left out.

    Attributes:
        layers: Names, from the input on.
        stages: Numbers of the tasks after which bits were counted.
        mean_frozen: (stages, layers) mean over a layer's weights; NaN where a layer was not counted.
        weights: (layers,) how many weights a layer has.
    """

    layers: tuple[str, ...]
    stages: tuple[int, ...]
    mean_frozen: Array
    weights: npt.NDArray[np.int64]

    def overall(self) -> Array:
        """(stages,) mean over all weights of the trunk."""
        return np.asarray(self.mean_frozen @ self.weights / self.weights.sum())


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
    counted = [_layer(table.where("layer", layer), stages) for layer in layers]
    means = np.array([means for means, _ in counted]).T
    return BitBudget(layers, stages, means, np.array([count for _, count in counted], dtype=np.int64))


def _layer(rows: Table, stages: tuple[int, ...]) -> tuple[list[float], int]:
    """Mean frozen bits after each stage, and the number of weights."""
    means, weights = [], 0
    for stage in stages:
        chosen = rows.numbers["stage"] == stage
        count, bits = rows.numbers["count"][chosen], rows.numbers["frozen_bits"][chosen]
        total = float(count.sum())
        means.append(float((count * bits).sum() / total) if total > 0 else float("nan"))
        weights = max(weights, int(total) if np.isfinite(total) else 0)
    return means, weights


def load_bit_maps(run: Path, problems: list[str]) -> list[BitMap]:
    """Read the frozen bits of every weight from the stage checkpoints, from the first stage and layer on.

    One layer of one stage is read at a time, and nothing else of a checkpoint, which may hold hundreds of megabytes.
    """
    maps: list[BitMap] = []
    for folder in sorted((run / "checkpoints").glob("stage-*")):
        if not folder.name[6:].isdigit():
            continue
        path = folder / "method.safetensors"
        try:
            maps.extend(_stage_maps(path, int(folder.name[6:])))
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
