"""What a run will take: disk while it lasts and in the end, memory; told early in its first task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from blip_rl.config import RunConfig
from blip_rl.learner.apart import LearnApart
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import FisherMethod, Method, parameter_bytes

_SNAPSHOTS = 2
_MOMENTS = 2  # that Adam keeps of each weight
_SAVING = 4  # copies of weights and moments that a save makes
_CONSOLIDATING = 7  # copies of the trunk that a Fisher and what follows it take: 5.3 with BLIP, 6.2 with EWC
_PLOTS = 60_000_000  # matplotlib, from the first boundary on


@dataclass(frozen=True)
class Needs:
    """Bytes.

    Attributes:
        disk: Of the run folder at its largest: checkpoints, and the snapshots to resume from.
        disk_in_the_end: When the snapshots have gone.
        memory: Of the process.
    """

    disk: int
    disk_in_the_end: int
    memory: int


def needs(config: RunConfig, agent: ContinualPPO, method: Method, peak_memory_bytes: int) -> Needs:
    """Estimate what a run needs.

    Args:
        config: The run's.
        agent: Has learned its first task for a few rollouts.
        method: The run's.
        peak_memory_bytes: The most memory that the process has held so far.
    """
    trunk, tasks = agent.policy.trunk, len(config.tasks)
    shape, dtype = agent.observation_space.shape or (), agent.observation_space.dtype
    frame = math.prod(shape) * np.dtype(dtype).itemsize
    weights, head = parameter_bytes(trunk), parameter_bytes(agent.policy.current)
    stages = [
        weights + stage * head + method.kept_bytes(trunk, stage, frame)
        for stage in ([tasks] if method.interleaved else range(1, tasks + 1))
    ]
    apart = config.learned_apart(tasks)
    aside = weights if apart else 0  # the shared trunk, while a task is learned apart
    snapshot = stages[-1] + aside + _MOMENTS * (weights + head)
    # A third snapshot is written before the oldest goes; the last task's checkpoint comes when that is over.
    disk = max(sum(stages[:-1]) + (_SNAPSHOTS + 1) * snapshot, sum(stages) + _SNAPSHOTS * snapshot)
    growth = max(0, method.kept_bytes(trunk, tasks, frame) - _held(method))
    inner = method.inner if isinstance(method, LearnApart) else method
    copies = _CONSOLIDATING if isinstance(inner, FisherMethod) else _SAVING
    # The states that a task is distilled on have gone before those that the method wants are played.
    states = max(config.agent.distil.steps if apart else 0, method.samples_wanted)
    memory = peak_memory_bytes + growth + aside + _PLOTS + states * frame + copies * weights
    return Needs(disk, sum(stages), memory)


def _held(method: Method) -> int:
    return sum(int(tensor.nbytes) for tensor in method.state().tensors.values())
