"""Steps per second of three agents: with and without CUDA graphs, by environments, precision and CPU threads.

An agent is built once for each number of environments; what can be switched is switched on it. Every variant runs
iterations to warm up, in which graphs are recorded, and then some that are timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _benchmark.contestants import Contestant, build_ours, freezing, gpu_peak_mb, recipe
from _benchmark.stages import open_stages, shares

from _gpu.results import Results, step_options
from blip_rl.config import ComputeConfig
from blip_rl.setting_types import Precision

_LAPS = 3
_WARM_UPS = 2
_SECONDS_FOR_ONE = 6  # that timing a variant takes at the most


@dataclass(frozen=True)
class Variant:
    """How the device is used."""

    capture: str = "auto"
    precision: Precision = "float32"
    threads: int = 1

    def switch(self, contestant: Contestant) -> None:
        """Make the agent learn like this from now on."""
        agent = contestant.agent
        agent._compute = ComputeConfig(capture=self.capture, precision=self.precision)  # type: ignore[arg-type]
        agent.policy._precision = self.precision
        agent.discard_captures()
        torch.set_num_threads(self.threads)

    def __str__(self) -> str:
        path = "captured" if self.capture == "auto" else "eager"
        return f"{path}, {self.precision}, {self.threads} thread{'s' * (self.threads > 1)}"


AGENTS = ("finetune", "blip", "ewc-kronecker")
CORES = os.cpu_count() or 1
VARIANTS = (
    Variant(),
    Variant(threads=CORES),
    Variant(precision="bfloat16"),
    Variant(precision="tf32"),
    Variant(capture="off"),
    Variant(capture="off", threads=CORES),
)
"""The most telling first: time may end the list anywhere."""


def main() -> None:
    """Measure variants until the time is over."""
    options = step_options(__doc__.splitlines()[0])
    results = Results(options.out, options.seconds)
    speeds: dict[str, Any] = {}
    for environments in options.environments:
        for agent in AGENTS:
            if results.seconds_left() < 3 * _SECONDS_FOR_ONE:
                return
            _measure(agent, environments, options, results, speeds)


def _measure(
    agent: str, environments: int, options: argparse.Namespace, results: Results, speeds: dict[str, Any]
) -> None:
    """Time all variants of one agent; the first also measures the share of each stage."""
    asked = argparse.Namespace(game="boxing", device=options.device, set=options.set, as_shipped=True)
    config = freezing(recipe(agent, asked, [f"ppo.environments={environments}"]))
    begun = time.perf_counter()
    with ExitStack() as stack:
        contestant = build_ours(config, stack, tasks=0 if agent == "finetune" else 1)
        results.put(f"seconds_to_build_{agent}_{environments}", time.perf_counter() - begun)
        for variant in VARIANTS if agent == "finetune" else VARIANTS[:1] + VARIANTS[2:3]:
            if results.seconds_left() < _SECONDS_FOR_ONE:
                return
            speeds[f"{agent}, {environments} environments, {variant}"] = _time(contestant, variant, options.device)
            results.put("speeds", speeds)
        if agent == "finetune":
            VARIANTS[0].switch(contestant)
            speeds[f"{agent}, {environments} environments, {VARIANTS[0]}"] |= _parts(contestant, config, stack)
            results.put("speeds", speeds)


def _time(contestant: Contestant, variant: Variant, device: str) -> dict[str, Any]:
    variant.switch(contestant)
    contestant.learn(_WARM_UPS)
    laps = [contestant.learn(1) for _ in range(_LAPS)]
    return {
        "steps_per_second": statistics.median(lap.steps / lap.seconds for lap in laps),
        "all": [round(lap.steps / lap.seconds) for lap in laps],
        "update_share": statistics.median(lap.update_seconds / lap.seconds for lap in laps),
        "cpu_seconds_per_1000_steps": statistics.median(1000 * lap.cpu_seconds / lap.steps for lap in laps),
        "gpu_peak_mb": gpu_peak_mb(device),
    }


def _parts(contestant: Contestant, config: Any, stack: ExitStack) -> dict[str, Any]:
    stages = open_stages(config, contestant, stack)
    emulator, inference = stages.emulate(2), stages.infer(1)
    contestant.learn(_WARM_UPS)
    return {
        "emulator_alone": emulator.steps / emulator.seconds,
        "inference_alone": inference.steps / inference.seconds,
        "shares": {name: float(np.round(share, 4)) for name, share in shares(contestant, 1).items()},
    }


if __name__ == "__main__":
    main()
