"""Measure the time and the extra memory of the diagonal Fisher of the paper's trunk, over random frames.

    python scripts/benchmark_fisher.py --out fisher.json

Each expectation runs in a process of its own, so that its peak memory is its own too: the peak during all calls, above
what the process holds before the first one (network and frames). Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from _measure import (
    add_common_options,
    cell,
    markdown_table,
    peak_rss_mb,
    positive_int,
    provenance,
    reset_peak_rss,
    rss_mb,
    run_alone,
    show,
)
from gymnasium.spaces import Box
from torch import nn

from blip_rl.core.fisher import diagonal_fisher
from blip_rl.learner.trunk import Trunk
from blip_rl.recipes import resolve

EXPECTATIONS = ("sampled", "exact")
FRAMES = Box(0, 255, (4, 84, 84), np.uint8)


def main() -> None:
    """Measure, print a table, write JSON."""
    options = _options()
    torch.set_num_threads(options.threads)
    results = {**provenance(), "settings": {key: value for key, value in vars(options).items() if key != "out"}}
    if options.only:
        results["fisher"] = {options.only: _measure(options)}
    else:
        results["fisher"] = {name: _measure_alone(name) for name in EXPECTATIONS}
    show(results, _report(results), options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive_int, default=2_000, help="observations (%(default)s)")
    parser.add_argument("--actions", type=positive_int, default=18, help="actions of the policy (%(default)s)")
    parser.add_argument("--only", choices=EXPECTATIONS, help="measure one of them, in this process")
    add_common_options(parser, repeats=3)
    return parser.parse_args()


def _measure_alone(expectation: str) -> dict[str, Any]:
    print(f"{expectation} …", file=sys.stderr)
    return run_alone("--only", expectation)["fisher"][expectation]


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time every call; take the peak over all of them."""
    generator = torch.Generator().manual_seed(0)
    trunk = Trunk(FRAMES, resolve("boxing", "blip").agent.trunk)
    head = nn.Linear(trunk.features_dim, options.actions)
    nn.init.orthogonal_(head.weight, gain=0.01)  # that of a new task's actor: all actions about equally likely
    frames = torch.randint(0, 256, (options.samples, *FRAMES.shape), dtype=torch.uint8, generator=generator)
    call = partial(diagonal_fisher, expectation=options.only, preprocess=_to_float, generator=generator)
    before, was_reset = rss_mb(), reset_peak_rss()
    peak_before, seconds = peak_rss_mb(), []
    for _ in range(options.repeats):
        begun = time.perf_counter()
        call(trunk, head, frames)
        seconds.append(time.perf_counter() - begun)
    peak = peak_rss_mb()
    return {
        "seconds": statistics.median(seconds),
        "seconds_all": seconds,
        "extra_peak_mb": None if before is None or peak is None else peak - before,
        "rss_before_mb": before,
        "peak_before_mb": peak_before,
        "peak_mb": peak,
        "peak_was_reset": was_reset,  # where not, and the peak did not move, the extra is only an upper bound
        "trunk_parameters": sum(parameter.numel() for parameter in trunk.parameters()),
    }


def _to_float(frames: torch.Tensor) -> torch.Tensor:
    return frames.float() / 255


def _report(results: dict[str, Any]) -> str:
    rows = [
        [
            f"{name}, {results['settings']['samples']} samples",
            cell(fisher["seconds"], ".2f"),
            " ".join(cell(value, ".2f") for value in fisher["seconds_all"]),
            cell(fisher["extra_peak_mb"]),
        ]
        for name, fisher in results["fisher"].items()
    ]
    return markdown_table(["expectation", "seconds, median", "seconds, each call", "extra peak memory, MB"], rows)


if __name__ == "__main__":
    main()
