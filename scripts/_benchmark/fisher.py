"""Time and extra memory of the diagonal Fisher of a recipe's trunk, over random frames, as the samples grow.

Each point runs in a process of its own, so that its peak memory is its own too: the peak during all calls, above what
the process holds before the first one (network and frames).
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
from _measure import cell, markdown_table, peak_rss_mb, positive_int, reset_peak_rss, rss_mb, run_alone
from gymnasium.spaces import Box
from torch import nn

from _benchmark.contestants import recipe, synchronise
from blip_rl.config import RunConfig
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.learner.trunk import Trunk

_EXPECTATIONS = ("sampled", "exact")
_FRAMES = Box(0, 255, (4, 84, 84), np.uint8)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    values = [250, 500, 1000, 2000, 4000]
    parser.add_argument("--values", nargs="+", type=positive_int, default=values, metavar="N", help="observations")
    parser.add_argument("--actions", type=positive_int, default=18, help="actions of the policy (%(default)s)")
    parser.add_argument("--expectations", nargs="+", choices=_EXPECTATIONS, default=["sampled"])
    parser.add_argument("--only", metavar="EXPECTATION:N", help="measure one point, in this process")


def check(options: argparse.Namespace) -> None:
    """Find mistakes before anything is built.

    Raises:
        UserError: a change that cannot be had.
    """
    _recipe(options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every point alone."""
    if options.only:
        expectation, _, samples = options.only.partition(":")
        return {"fisher": {options.only: _measure(expectation, int(samples), options)}}
    points = [f"{expectation}:{samples}" for expectation in options.expectations for samples in options.values]
    return {"fisher": {point: _alone(point) for point in points}}


def _alone(point: str) -> dict[str, Any]:
    print(f"{point} …", file=sys.stderr)
    return run_alone("--only", point)["fisher"][point]


def _measure(expectation: str, samples: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time every call; take the peak over all of them."""
    device = torch.device(options.device)
    trunk = Trunk(_FRAMES, _recipe(options).agent.trunk).to(device)
    head = nn.Linear(trunk.features_dim, options.actions).to(device)
    nn.init.orthogonal_(head.weight, gain=0.01)  # that of a new task's actor: all actions about equally likely
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (samples, *_FRAMES.shape), dtype=torch.uint8, generator=generator)
    preprocess = partial(_to_float, device)
    call = partial(diagonal_fisher, expectation=expectation, preprocess=preprocess, generator=generator)
    before, was_reset = rss_mb(), reset_peak_rss()
    gpu_before = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    seconds = []
    for _ in range(options.repeats):
        synchronise(device)
        begun = time.perf_counter()
        call(trunk, head, frames)
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
    peak = peak_rss_mb()
    gpu = None if gpu_before is None else (torch.cuda.max_memory_allocated(device) - gpu_before) / 1e6
    return {
        "samples": samples,
        "seconds": statistics.median(seconds),
        "seconds_all": seconds,
        "extra_peak_mb": None if before is None or peak is None else peak - before,
        "gpu_extra_peak_mb": gpu,
        "peak_was_reset": was_reset,  # where not, and the peak did not move, the extra is only an upper bound
        "trunk_parameters": sum(parameter.numel() for parameter in trunk.parameters()),
    }


def _recipe(options: argparse.Namespace) -> RunConfig:
    """Only its trunk counts, so its minibatches shall fit whatever else is changed."""
    return recipe("blip", options, ["ppo.minibatches=1"])


def _to_float(device: torch.device, frames: torch.Tensor) -> torch.Tensor:
    return frames.to(device).float() / 255


def report(results: dict[str, Any]) -> str:
    """One row for each point."""
    rows = [
        [
            name.partition(":")[0],
            f"{fisher['samples']:,}",
            cell(fisher["seconds"], ".2f"),
            " ".join(cell(value, ".2f") for value in fisher["seconds_all"]),
            cell(1e3 * fisher["seconds"] / fisher["samples"], ".2f"),
            cell(fisher["extra_peak_mb"]),
            cell(fisher["gpu_extra_peak_mb"]),
        ]
        for name, fisher in results["fisher"].items()
    ]
    head = ["expectation", "samples", "seconds, median", "seconds, each call", "ms per sample"]
    return markdown_table([*head, "extra peak memory, MB", "extra GPU memory, MB"], rows)
