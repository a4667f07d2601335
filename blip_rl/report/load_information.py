"""Read the Fisher information recorded in stage checkpoints: weights without any, and the effect of the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError
from blip_rl.report.checkpoints import stage_folders
from blip_rl.untrusted.files import read_json

_WEIGHT = ".weight"


@dataclass(frozen=True)
class FirstTask:
    """Bits frozen by the first task with the run's Fisher prior.

    Attributes:
        prior: F₀.
        informed_bits: Mean of frozen bits over the weights with Fisher information.
        bits: Mean of frozen bits over all weights.
        drift: Bound on how far the policy can diverge inside the intervals, in nats, to second order.
    """

    prior: float
    informed_bits: float
    bits: float
    drift: float


@dataclass(frozen=True)
class Information:
    """Fisher information of a run; empty for runs of versions that did not record it.

    Attributes:
        shares: Stage → layer → share of its weights without any information from that stage's task.
        first_task: None if not recorded.
    """

    shares: dict[int, dict[str, float]] = field(default_factory=dict)
    first_task: FirstTask | None = None


def load_information(run: Path) -> Information:
    """Read ``stage.json`` of every stage; skip what cannot be read or is out of range."""
    shares: dict[int, dict[str, float]] = {}
    first_task = None
    for stage, folder in stage_folders(run).items():
        try:
            values = read_json(folder / "stage.json")["method"]
            found = dict(values.get("without_information") or {})
            first_task = first_task or _first_task(values.get("first_task"))
        except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError):
            continue  # damaged checkpoints are reported where their tensors are read
        layers = {str(n).removesuffix(_WEIGHT): s for n, s in found.items() if str(n).endswith(_WEIGHT) and _share(s)}
        if layers:
            shares[stage] = layers
    return Information(shares, first_task)


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _first_task(values: Any) -> FirstTask | None:
    if not isinstance(values, dict):
        return None
    numbers = {name: float(values[name]) for name in ("prior", "informed_bits", "bits", "drift")}
    return FirstTask(**numbers) if all(math.isfinite(number) for number in numbers.values()) else None
