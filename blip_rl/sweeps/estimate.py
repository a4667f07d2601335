"""Resources that the runs of a sweep need, and how many fit on this machine at the same time."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.separate_trunk import build_method
from blip_rl.run.device import resolve_device
from blip_rl.run.dry_run import estimate_needs
from blip_rl.run.resources import ResourceEstimate
from blip_rl.run.task_checks import check_tasks
from blip_rl.sweeps.manifest import Manifest
from blip_rl.untrusted.machine import in_words, memory_bytes


@dataclass(frozen=True)
class Needs:
    """What the runs of one setting need.

    Attributes:
        config: The setting's recipe, with seed 0.
        device: Torch device on this machine; for runs on other machines as in the recipe.
        resources: Memory and disk of a run.
    """

    config: RunConfig
    device: str
    resources: ResourceEstimate


def check_settings(manifest: Manifest, *, here: bool = True) -> dict[str, Needs]:
    """Check each setting as training does before it writes anything, and estimate what its runs need.

    Args:
        manifest: All runs.
        here: Whether the runs are made on this machine; otherwise their device is not looked for.

    Raises:
        UserError: Training would refuse a setting, for example for its device or its memory.
    """
    return {name: _checked(manifest.config_of(name), here) for name in manifest.settings}


def _checked(config: RunConfig, here: bool) -> Needs:
    device = resolve_device(config.device) if here else config.device
    method = build_method(config.agent)
    _, resources = estimate_needs(config, method, check_tasks(config, method))
    return Needs(config, device, resources)


def gpu_places(gpus: int, gpus_per_run: float) -> tuple[int, ...]:
    """Return the number of the GPU of each place for a run.

    Args:
        gpus: GPUs of this machine.
        gpus_per_run: Share of a GPU that a run takes, above 0 and at most 1: ``0.25`` puts four runs on each.
    """
    each = int(1 / gpus_per_run + 1e-9)
    return tuple(gpu for _ in range(each) for gpu in range(gpus))


def places(needs: dict[str, Needs], threads: int, asked: int | None, gpus: tuple[int, ...]) -> int:
    """Return how many runs to make at a time: as many as cores, memory and GPUs allow, or as asked.

    Args:
        needs: Of each setting.
        threads: CPU threads of a run.
        asked: ``--jobs``; None: as many as fit.
        gpus: Place for a run → GPU; empty without GPUs.

    Raises:
        UserError: More runs are asked for than fit into memory or onto the GPUs.
    """
    memory = max(one.resources.memory for one in needs.values())
    fitting = max(1, memory_bytes() // memory)
    if gpus:
        fitting = min(fitting, len(gpus))
    if asked is None:
        return max(1, min(_cores() // threads, fitting))
    if asked > fitting:
        room = (
            f"{len(gpus)} on the GPUs (--gpus-per-run)" if gpus and fitting == len(gpus) else in_words(memory_bytes())
        )
        raise UserError(
            f"--jobs {asked}: a run needs at least {in_words(memory)} of memory, and there is room for {fitting} at a "
            f"time ({room}): expected at most {fitting}"
        )
    return asked


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def uses_gpu(needs: dict[str, Needs]) -> bool:
    """Return whether any run uses a GPU."""
    return any(one.device.startswith("cuda") for one in needs.values())


def gpu_count() -> int:
    """Return the number of GPUs of this machine."""
    return torch.cuda.device_count()
