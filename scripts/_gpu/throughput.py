"""Steps per second: the emulator alone, fine-tuning and BLIP, by path, environments and precision.

Every variant is built, runs an iteration to warm up (two where graphs are recorded), and then some that are timed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from _benchmark.contestants import Contestant, build_ours, freezing, gpu_peak_mb, recipe
from _benchmark.stages import open_stages, shares

from _gpu.results import Results, step_options

_LAPS = 3
_WARM_UPS = 2
_SECONDS_FOR_ONE = 12  # that building and timing a variant takes at the most


@dataclass(frozen=True)
class Variant:
    """One way to train: who, how the device is used, how many games at a time."""

    agent: str
    capture: str
    precision: str
    environments: int
    compiled: bool = False

    @property
    def name(self) -> str:
        """Unique, and readable in a table."""
        path = "captured" if self.capture == "auto" else "plain"
        return f"{self.agent}, {path}{' + compiled' if self.compiled else ''}, {self.precision}, {self.environments}"

    @property
    def changes(self) -> list[str]:
        """As ``--set`` takes them."""
        return [
            f"compute.capture={self.capture}",
            f"compute.precision={self.precision}",
            f"compute.compile={str(self.compiled).lower()}",
            f"ppo.environments={self.environments}",
        ]


def variants(environments: list[int]) -> Iterator[Variant]:
    """The most telling first: time may end the list anywhere."""
    for count in environments:
        for agent in ("finetune", "blip"):
            yield Variant(agent, "auto", "float32", count)
    for count in environments:
        yield Variant("finetune", "off", "float32", count)
    for count in environments:
        for agent in ("finetune", "blip"):
            yield Variant(agent, "auto", "bfloat16", count)
    for count in environments:
        yield Variant("finetune", "auto", "tf32", count)
    yield Variant("finetune", "auto", "bfloat16", environments[-1], compiled=True)
    yield Variant("blip", "off", "float32", environments[0])


def main() -> None:
    """Measure variants until the time is over."""
    options = step_options(__doc__.splitlines()[0])
    results = Results(options.out, options.seconds)
    speeds: dict[str, object] = {}
    for variant in variants(options.environments):
        if results.seconds_left() < _SECONDS_FOR_ONE:
            results.put("not_measured_from", variant.name)
            break
        try:
            speeds[variant.name] = measure(variant, options)
        except Exception as error:  # one variant that fails must not cost the others
            speeds[variant.name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        results.put("speeds", speeds)


def measure(variant: Variant, options: argparse.Namespace) -> dict[str, object]:
    """Build, warm up and time one variant; fine-tuning on the captured path also says where its time goes."""
    asked = argparse.Namespace(game="boxing", device=options.device, set=options.set, as_shipped=True)
    config = freezing(recipe(variant.agent, asked, variant.changes))
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with ExitStack() as stack:
        contestant = build_ours(config, stack, tasks=0 if variant.agent == "finetune" else 1)
        contestant.learn(_WARM_UPS)
        laps = [contestant.learn(1) for _ in range(_LAPS)]
        found: dict[str, object] = {
            "steps_per_second": statistics.median(lap.steps / lap.seconds for lap in laps),
            "all": [round(lap.steps / lap.seconds) for lap in laps],
            "update_share": statistics.median(lap.update_seconds / lap.seconds for lap in laps),
            "gpu_peak_mb": gpu_peak_mb(options.device),
        }
        if variant.agent == "finetune" and variant.capture == "auto" and variant.precision != "tf32":
            found |= _parts(contestant, config, stack)
    return found


def _parts(contestant: Contestant, config: object, stack: ExitStack) -> dict[str, object]:
    stages = open_stages(config, contestant, stack)  # type: ignore[arg-type]
    emulator, inference = stages.emulate(1), stages.infer(1)
    return {
        "emulator_alone": emulator.steps / emulator.seconds,
        "inference_alone": inference.steps / inference.seconds,
        "shares": {name: float(np.round(share, 4)) for name, share in shares(contestant, 1).items()},
    }


if __name__ == "__main__":
    main()
