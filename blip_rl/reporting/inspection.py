"""Inspect a run folder: frozen and free bits, forecast of further tasks, plasticity, and the audit of intervals.

Works on running, interrupted and finished runs. Missing or damaged files are reported and skipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from blip_rl.records import MAX_BITS, PlasticityRow
from blip_rl.reporting.audit import Audit, audit_run
from blip_rl.reporting.bits import BitBudget, load_budget
from blip_rl.reporting.checkpoints import Checkpoint, FirstTask, Information, load_information, open_checkpoints
from blip_rl.reporting.scores import load_config, no_recipe
from blip_rl.reporting.table import Array, load_plasticity
from blip_rl.reporting.visits import NamedTask, VisitedTasks
from blip_rl.untrusted.files import check_contained

NonEmpty = Annotated[str, Field(min_length=1)]
_FULL_BELOW = 1.0
_RATES_USED = 3
FORECAST_RULE = (
    f"full = less than {_FULL_BELOW:g} free bit per weight on average; each further task is assumed to keep the "
    f"same share of the free bits as the last ones (geometric mean of up to {_RATES_USED}; the first task counts only "
    "if it is the only one)"
)


@dataclass(frozen=True)
class Forecast:
    """Forecast of when a layer has no free bits left.

    Attributes:
        kept_per_task: Ratio of free bits after a task to free bits before it.
        full_after_task: Number of the task after which the layer is full; None if it never is.
    """

    kept_per_task: float
    full_after_task: int | None


@dataclass(frozen=True)
class LayerBits:
    """Bits of one layer's weights, without biases.

    Attributes:
        layer: Name; ``trunk`` for all layers together.
        weights: Number of weights.
        frozen: Mean frozen bits after each stage.
        free: Mean free bits after each stage.
        without_information: Share of weights without Fisher information from the task of each stage; None if not
            recorded.
        forecast: None before the first task.
    """

    layer: str
    weights: int
    frozen: tuple[float, ...]
    free: tuple[float, ...]
    without_information: tuple[float | None, ...]
    forecast: Forecast | None


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection.

    Attributes:
        run: The folder.
        agent: Name of the agent recipe.
        method: Name of its method.
        tasks: Names, in the order of their first visits.
        visits: Index of the task that each stage learns, (stages,); a stage is one visit to a task.
        stages: Numbers of the stages with frozen bits of every layer.
        total_bits: N; None if the method freezes no bits.
        first_task: Effect of the Fisher prior; None if not recorded.
        layers: In the trunk's order, and the whole trunk last; empty if no bits are known.
        plasticity: The newest of every layer.
        audit: None where there are no intervals to compare.
        method_state: Lines of text about the state of a method that freezes no bits.
        problems: Messages about missing or damaged files.
    """

    run: str
    agent: str
    method: str
    tasks: tuple[str, ...]
    visits: tuple[int, ...]
    stages: tuple[int, ...]
    total_bits: int | None
    first_task: FirstTask | None
    layers: tuple[LayerBits, ...]
    plasticity: tuple[PlasticityRow, ...]
    audit: Audit | None
    method_state: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def full_next(self) -> LayerBits | None:
        """The layer forecast to be full first; None if none."""
        filling = [bits for bits in self.layers[:-1] if bits.forecast and bits.forecast.full_after_task is not None]
        return min(filling, key=lambda bits: (_full_after(bits), bits.free[-1]), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values; non-finite numbers become null."""
        values: dict[str, Any] = _plain(asdict(self))
        for row in values["plasticity"]:
            del row["free_bits"]  # shown for every stage in "layers"
        values["holdings"] = values.pop("method_state")  # the key in files that other programs read
        return {**values, "forecast_rule": FORECAST_RULE}


class _Method(BaseModel, extra="allow"):
    name: NonEmpty


class _Task(NamedTask, frozen=True):
    name: NonEmpty


class _Agent(BaseModel):
    method: _Method


class _Recipe(VisitedTasks):
    """The part of ``config.toml`` that an inspection needs; other keys are ignored."""

    agent_name: NonEmpty
    agent: _Agent
    tasks: Annotated[tuple[_Task, ...], Field(min_length=1)]


def inspect_run(run: Path) -> Inspection:
    """Inspect a run folder.

    Raises:
        UserError: It is not a run folder.
    """
    recipe = _recipe(run)
    method = recipe.agent.method.model_dump()
    checkpoints, problems = open_checkpoints(run)
    total_bits = _total_bits(method, checkpoints)
    budget = None if total_bits is None else load_budget(run, problems)
    information = load_information(run)
    # Of a running stage only some rows may be written yet.
    complete = None if budget is None else budget.complete_stages()
    return Inspection(
        run=str(run),
        agent=recipe.agent_name,
        method=method["name"],
        tasks=recipe.names,
        visits=recipe.visits,
        stages=complete.stages if complete else (),
        total_bits=total_bits,
        first_task=information.first_task,
        layers=tuple(_layers(complete, information, total_bits or 0)) if complete and complete.stages else (),
        plasticity=tuple({row.layer: row for row in load_plasticity(run, problems)}.values()),
        audit=None if total_bits is None else audit_run(checkpoints, method, total_bits, problems),
        method_state=tuple(_method_state(checkpoints[-1])) if checkpoints and total_bits is None else (),
        problems=tuple(problems),
    )


def _recipe(run: Path) -> _Recipe:
    check_contained(run)
    try:
        return _Recipe.model_validate(load_config(run))
    except ValidationError as error:
        raise no_recipe(run, error) from error


def _total_bits(method: dict[str, Any], checkpoints: list[Checkpoint]) -> int | None:
    """Return N from the recipe or else from a checkpoint; None for a method without bits."""
    known = [method.get("total_bits"), *(checkpoint.values.get("total_bits") for checkpoint in checkpoints)]
    return next((bits for bits in known if isinstance(bits, int) and 1 <= bits <= MAX_BITS), None)


def _layers(budget: BitBudget, information: Information, total_bits: int) -> list[LayerBits]:
    """Return every layer, and last all of them together."""
    names = [*budget.layers, "trunk"]
    weights = [*budget.weights.tolist(), int(budget.weights.sum())]
    frozen = np.column_stack([budget.mean_frozen, budget.overall()]).T
    known = [[information.shares.get(s, {}).get(layer, math.nan) for layer in budget.layers] for s in budget.stages]
    uninformed = np.array(known).reshape(len(budget.stages), len(budget.layers))
    uninformed = np.column_stack([uninformed, uninformed @ budget.weights / max(1, budget.weights.sum())]).T
    return [_layer(*one, budget.stages, total_bits) for one in zip(names, weights, frozen, uninformed, strict=True)]


def _layer(name: str, weights: int, frozen: Array, shares: Array, stages: Sequence[int], total_bits: int) -> LayerBits:
    free = (total_bits - frozen).tolist()
    uninformed = tuple(None if math.isnan(share) else share for share in shares.tolist())
    return LayerBits(name, weights, tuple(frozen.tolist()), tuple(free), uninformed, forecast(free, stages, total_bits))


def forecast(free: Sequence[float], stages: Sequence[int], total_bits: int) -> Forecast:
    """Extrapolate a layer's free bits geometrically; see ``FORECAST_RULE``.

    Args:
        free: (stages,) mean free bits after each stage; at least one.
        stages: (stages,) stage numbers, increasing.
        total_bits: N, the free bits before the first stage.
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


def _method_state(checkpoint: Checkpoint) -> list[str]:
    """Return the description of the method's state, with the stage."""
    return [f"{line} (after stage {checkpoint.stage})" for line in checkpoint.method_state()]


def _full_after(bits: LayerBits) -> float:
    after = bits.forecast.full_after_task if bits.forecast else None
    return math.inf if after is None else after


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
