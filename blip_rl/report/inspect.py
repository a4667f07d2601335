"""What a run's memory looks like from inside: bits frozen and free, how many tasks still fit, units gone silent, flips.

From the run folder alone, without torch, while the run goes on or after it has ended in whatever way. A file that is
missing or damaged is named and left out.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from blip_rl.errors import UserError
from blip_rl.report.audit import Flips, audit
from blip_rl.report.checkpoints import Checkpoint, open_checkpoints

_NEWER = "plasticity.csv"
"""Runs of earlier versions do not have it."""
_FULL_BELOW = 1.0
_RATES_USED = 3
FORECAST_RULE = (
    f"full = less than {_FULL_BELOW:g} free bit per weight on average; each further task is taken to leave the share "
    f"of the free bits that the last ones left (geometric mean of up to {_RATES_USED}; the first task counts only "
    "where it is the only one)"
)


@dataclass(frozen=True)
class Forecast:
    """When a layer will be full.

    Attributes:
        kept_per_task: Share of the free bits that a task leaves free.
        full_after_task: Number of the task; None if the layer does not fill up.
    """

    kept_per_task: float
    full_after_task: int | None


@dataclass(frozen=True)
class LayerBits:
    """Bits of one layer's weights, biases left out.

    Attributes:
        layer: Its name; ``trunk`` for all layers together.
        weights: How many it has.
        frozen: Mean of frozen bits after each stage.
        free: Mean of free bits after each stage.
        forecast: When it will be full; None before the first task.
    """

    layer: str
    weights: int
    frozen: tuple[float, ...]
    free: tuple[float, ...]
    forecast: Forecast | None


@dataclass(frozen=True)
class Audit:
    """Whether frozen bits flipped.

    Attributes:
        stages: Numbers of the stages that were compared.
        parameters: Weights and biases compared.
        flips: One entry for each two stages.
    """

    stages: tuple[int, ...]
    parameters: int
    flips: tuple[Flips, ...]


@dataclass(frozen=True)
class Inspection:
    """All that was found.

    Attributes:
        run: The folder.
        agent: Name of the agent recipe.
        method: Name of its method.
        tasks: Names, in the order they are learned.
        stages: Numbers of the stages whose bits are known in every layer.
        total_bits: N; None where the method freezes no bits.
        layers: In the trunk's order, and the whole trunk last; empty where no bits are known.
        plasticity: Newest row of ``plasticity.csv`` of every layer, by column.
        audit: None where there are no intervals to compare.
        holdings: What a method that freezes no bits holds instead, in words.
        problems: What could not be read.
    """

    run: str
    agent: str
    method: str
    tasks: tuple[str, ...]
    stages: tuple[int, ...]
    total_bits: int | None
    layers: tuple[LayerBits, ...]
    plasticity: tuple[dict[str, Any], ...]
    audit: Audit | None
    holdings: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def full_next(self) -> LayerBits | None:
        """The layer that will be full first; None if none will."""
        filling = [bits for bits in self.layers[:-1] if bits.forecast and bits.forecast.full_after_task is not None]
        return min(filling, key=lambda bits: (_full_after(bits), bits.free[-1]), default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; a number that is not finite becomes null."""
        return {**_plain(asdict(self)), "forecast_rule": FORECAST_RULE}


def inspect_run(run: Path) -> Inspection:
    """Look into a run folder.

    Raises:
        UserError: it is no run folder.
    """
    config = _read_config(run)
    method = dict(config["agent"]["method"])
    checkpoints, problems = open_checkpoints(run)
    total_bits = _total_bits(method, checkpoints)
    frozen = {} if total_bits is None else _read(run / "bits.csv", _frozen_bits, {}, problems)
    stages = sorted(set.intersection(*(set(by_stage) for by_stage in frozen.values()))) if frozen else []
    return Inspection(
        run=str(run),
        agent=str(config["agent_name"]),
        method=str(method["name"]),
        tasks=tuple(str(task["name"]) for task in config["tasks"]),
        stages=tuple(stages),
        total_bits=total_bits,
        layers=tuple(_layers(frozen, stages, total_bits or 0)) if stages else (),
        plasticity=tuple(_read(run / _NEWER, _newest, [], problems)),
        audit=None if total_bits is None else _audit(checkpoints, method, total_bits, problems),
        holdings=tuple(_holdings(checkpoints[-1])) if checkpoints and total_bits is None else (),
        problems=tuple(problems),
    )


def forecast(free: Sequence[float], stages: Sequence[int], total_bits: int) -> Forecast:
    """Extrapolate a layer's free bits geometrically; see ``FORECAST_RULE``.

    Args:
        free: Mean of free bits after each stage, at least one.
        stages: The stages' numbers, rising.
        total_bits: N, what was free before the first.
    """
    before = [(0, float(total_bits)), *zip(stages, free, strict=True)]
    kept = [(now / was) ** (1 / (stage - last)) if was > 0 else 1.0 for (last, was), (stage, now) in pairwise(before)]
    used = (kept[1:] or kept)[-_RATES_USED:]
    rate = math.prod(used) ** (1 / len(used))
    if free[-1] < _FULL_BELOW:
        return Forecast(rate, stages[-1])
    if rate >= 1:
        return Forecast(rate, None)
    tasks = 1 if rate == 0 else math.floor(math.log(_FULL_BELOW / free[-1]) / math.log(rate)) + 1
    return Forecast(rate, stages[-1] + tasks)


def _read_config(run: Path) -> dict[str, Any]:
    path = run / "config.toml"
    if not path.is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.toml (blip-rl train creates run folders)")
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
        if not (config["agent_name"] and config["agent"]["method"]["name"] and config["tasks"][0]["name"]):
            raise ValueError("no agent, method or task is named")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"'{path}' is no resolved recipe ({error!r}): put back the file that blip-rl train wrote"
        ) from None
    return config


def _total_bits(method: dict[str, Any], checkpoints: list[Checkpoint]) -> int | None:
    """N as the recipe has it, or else a checkpoint; None for a method that has no bits."""
    known = [method.get("total_bits"), *(checkpoint.values.get("total_bits") for checkpoint in checkpoints)]
    return next((int(bits) for bits in known if isinstance(bits, int)), None)


def _read(path: Path, parse: Callable[[list[dict[str, str]]], Any], without: Any, problems: list[str]) -> Any:
    """What ``parse`` makes of a csv file's whole rows; ``without`` and a line in ``problems`` if it cannot be read."""
    if not path.is_file():
        if path.name != _NEWER:
            problems.append(f"'{path}' is missing; left out")
        return without
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        whole = [row for row in rows if None not in row and None not in row.values()]
        if len(whole) < len(rows):
            problems.append(f"'{path}': {len(rows) - len(whole)} line(s) cut off; left out")
        return parse(whole)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        problems.append(f"'{path}' cannot be read: {error!r}; left out")
        return without


def _frozen_bits(rows: list[dict[str, str]]) -> dict[str, dict[int, dict[int, int]]]:
    """Layer → stage → bits → count, of weights alone; of rows written twice the later stands."""
    counts: dict[str, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["parameter"] == "weight":
            counts[row["layer"]][int(row["stage"])][int(row["frozen_bits"])] = int(row["count"])
    return counts


def _newest(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The last row of every layer, as numbers."""
    newest = {row["layer"]: row for row in rows}
    return [
        {
            "layer": layer,
            "env_steps": int(row["env_steps"]),
            "stage": int(row["stage"]),
            "phase": row["phase"],
            "dormant_share": float(row["dormant_share"]),
            "effective_rank": float(row["effective_rank"]),
            "gradient_norm": float(row["gradient_norm"]),
        }
        for layer, row in newest.items()
    ]


def _layers(counts: dict[str, dict[int, dict[int, int]]], stages: list[int], total_bits: int) -> list[LayerBits]:
    """Every layer, and all of them together."""
    sums = {
        layer: np.array([[sum(b * n for b, n in by_stage[s].items()), sum(by_stage[s].values())] for s in stages])
        for layer, by_stage in counts.items()
    }
    sums["trunk"] = np.sum(list(sums.values()), axis=0)
    return [_layer(name, totals, stages, total_bits) for name, totals in sums.items()]


def _layer(name: str, totals: np.ndarray, stages: list[int], total_bits: int) -> LayerBits:
    frozen = [float(mean) for mean in totals[:, 0] / totals[:, 1]]
    free = [total_bits - mean for mean in frozen]
    return LayerBits(name, int(totals[-1, 1]), tuple(frozen), tuple(free), forecast(free, stages, total_bits))


def _audit(checkpoints: list[Checkpoint], method: dict[str, Any], total_bits: int, problems: list[str]) -> Audit | None:
    usable = []
    for checkpoint in checkpoints:
        wrong = _wrong_intervals(checkpoint, total_bits)
        if wrong is None:
            usable.append(checkpoint)
        else:
            problems.append(f"checkpoint of stage {checkpoint.stage}: {wrong}; left out of the audit")
    if not usable:
        return None
    shapes = usable[0].shapes
    fan_bounds = method.get("weight_bound", "fan") == "fan"
    flips = audit(usable, lambda name: _bound(shapes[name], fan_bounds), total_bits)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    return Audit(tuple(checkpoint.stage for checkpoint in usable), parameters, tuple(flips))


def _wrong_intervals(checkpoint: Checkpoint, total_bits: int) -> str | None:
    """Why a checkpoint cannot be audited; None if it can."""
    if not checkpoint.has_intervals:
        return "a weight has no centre and frozen bits of its shape"
    for name in checkpoint.shapes:
        frozen_bits = checkpoint.memory(f"{name}.frozen_bits")
        if frozen_bits.dtype != np.uint8 or frozen_bits.max(initial=0) > total_bits:
            return f"{name} has frozen bits that are no numbers from 0 to {total_bits}"
    return None


def _bound(shape: tuple[int, ...], fan_bounds: bool) -> float:
    """b: of weights 6/√max(outputs, inputs·kernel height·kernel width), or 1; of biases 1."""
    if len(shape) < 2 or not fan_bounds:
        return 1.0
    return 6.0 / math.sqrt(max(shape[0], math.prod(shape[1:])))


def _holdings(checkpoint: Checkpoint) -> list[str]:
    """What packnet and gpm hold, in words; empty for methods that hold nothing of the kind."""
    owners = [name for name in checkpoint.memory_shapes if name.endswith(".owner")]
    lines = []
    if owners:
        counts = np.sum([np.bincount(checkpoint.memory(name).ravel(), minlength=256) for name in owners], axis=0)
        shares = [f"task {task} {count / counts.sum():.1%}" for task, count in enumerate(counts) if task and count]
        shares.append(f"free {counts[0] / counts.sum():.1%}")
        lines.append(f"weights owned after stage {checkpoint.stage}: {', '.join(shares)}")
    for name, shape in checkpoint.memory_shapes.items():
        if name.endswith(".basis"):
            layer = name.removesuffix(".basis").removesuffix(".weight")
            lines.append(f"{layer}: {shape[1]:,} of {shape[0]:,} input directions held after stage {checkpoint.stage}")
    return lines


def _full_after(bits: LayerBits) -> float:
    after = bits.forecast.full_after_task if bits.forecast else None
    return math.inf if after is None else after


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
