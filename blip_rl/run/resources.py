"""The memory that a training needs at the least, told before any of it is taken.

A recipe may come from a stranger, or hold a slip of the pen: either way a message beats a machine that stops answering.
"""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from blip_rl.config import RunConfig
from blip_rl.learner.apart import LearnApart
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import FisherMethod, Method, Network, parameter_bytes
from blip_rl.storage import validation
from blip_rl.tasks.games import is_atari
from blip_rl.untrusted.machine import check_memory, in_words

_PER_WEIGHT = 4  # itself, its gradient and Adam's two moments
_PER_STEP = 32  # bytes of a rollout beside the observation: action, reward, value, advantage, …
_DISTILLING = 3  # copies of the weights: the shared trunk, the teacher, and the student while the teacher judges
_GAME_BYTES = {True: 1_700_000, False: 20_000}  # of one environment, measured: an emulator, a small Python game
_SNAPSHOTS = 2
_MOMENTS = 2  # that Adam keeps of each weight
_SAVING = 4  # copies of weights and moments that a save makes
_CONSOLIDATING = 7  # copies of the trunk that a Fisher and what follows it take: 5.3 with BLIP, 6.2 with EWC
_PLOTS = 60_000_000  # matplotlib, from the first boundary on
_LONG_RUN_SECONDS = 120
_ADVICE = (
    "make trunk layers, ppo.environments, ppo.rollout_steps, atari.frame_size, atari.frame_stack, what the method "
    "samples or what is played to distil smaller"
)


def check_training(config: RunConfig, method: Method, observations: spaces.Space[Any], tasks: validation.Tasks) -> None:
    """Make sure that a training fits into this machine's memory, as far as the recipe decides it.

    Args:
        config: The run's.
        method: The recipe's.
        observations: Of one environment.
        tasks: Names and action spaces.

    Raises:
        UserError: it does not; the message names the memory needed and what needs it.
    """
    ppo, frame = config.agent.ppo, _bytes(observations)
    weights = validation.weight_bytes(validation.meta_policy(observations, tasks, config.agent.trunk))
    steps = ppo.environments * ppo.rollout_steps
    largest_game = max(_GAME_BYTES[is_atari(task.game)] for task in config.tasks)
    parts = {
        "weights, gradients and optimizer": float(weights * _PER_WEIGHT),
        f"rollouts of {steps:,} steps": float(steps * (frame + _PER_STEP)),
        f"{ppo.environments:,} games": float(ppo.environments * (largest_game + frame)),
        f"{method.samples_wanted:,} observations for the method": float(method.samples_wanted * frame),
    }
    if config.learned_apart(len(config.tasks)):
        parts["distilling, the teacher and the shared trunk"] = float(
            config.agent.distil.steps * frame + weights * _DISTILLING
        )
    check_memory("this recipe", parts, _ADVICE)


def _bytes(space: spaces.Space[Any]) -> int:
    return math.prod(space.shape or ()) * np.dtype(space.dtype).itemsize


@dataclass(frozen=True)
class ResourceEstimate:
    """Bytes.

    Attributes:
        disk: Of the run folder at its largest: checkpoints, and the snapshots to resume from.
        final_disk: When the snapshots have gone.
        memory: Of the process.
    """

    disk: int
    final_disk: int
    memory: int


def estimate_resources(
    config: RunConfig, agent: ContinualPPO, method: Method, peak_memory_bytes: int
) -> ResourceEstimate:
    """Estimate what a run needs.

    Args:
        config: The run's.
        agent: Has learned its first task for a few rollouts.
        method: The run's.
        peak_memory_bytes: The most memory that the process has held so far.
    """
    trunk, tasks = agent.policy.trunk, len(config.tasks)
    space = agent.observation_space
    frame = math.prod(space.shape or ()) * np.dtype(space.dtype).itemsize
    # Only the first task's head is known yet: assume the same number of outputs for all tasks.
    outputs = (agent.policy.current.actor.out_features,)
    weights, head = parameter_bytes(trunk), parameter_bytes(agent.policy.current)
    stages = [
        weights + stage * head + method.kept_bytes(Network(trunk, space, stage * outputs))
        for stage in ([tasks] if method.interleaved else range(1, tasks + 1))
    ]
    apart = config.learned_apart(tasks)
    aside = weights if apart else 0  # the shared trunk, while a task is learned apart
    snapshot = stages[-1] + aside + _MOMENTS * (weights + head)
    # A third snapshot is written before the oldest goes; the last task's checkpoint comes when that is over.
    disk = max(sum(stages[:-1]) + (_SNAPSHOTS + 1) * snapshot, sum(stages) + _SNAPSHOTS * snapshot)
    growth = max(0, method.kept_bytes(Network(trunk, space, tasks * outputs)) - _held(method))
    inner = method.inner if isinstance(method, LearnApart) else method
    copies = _CONSOLIDATING if isinstance(inner, FisherMethod) else _SAVING
    # The states that a task is distilled on have gone before those that the method wants are played.
    states = max(config.agent.distil.steps if apart else 0, method.samples_wanted)
    memory = peak_memory_bytes + growth + aside + _PLOTS + states * frame + copies * weights
    return ResourceEstimate(disk, sum(stages), memory)


def _held(method: Method) -> int:
    return sum(int(tensor.nbytes) for tensor in method.state().tensors.values())


def forecast(config: RunConfig, agent: ContinualPPO, method: Method, steps_per_second: float) -> str | None:
    """Describe the time, memory and disk that a run needs; None for a run of less than two minutes.

    Args:
        config: The run's.
        agent: Has learned its first task for a few rollouts.
        method: The run's.
        steps_per_second: Measured in those rollouts.
    """
    total = sum(task.steps for task in config.tasks)
    seconds = total / steps_per_second
    if seconds < _LONG_RUN_SECONDS:
        return None
    estimate = estimate_resources(config, agent, method, peak_memory_bytes())
    return (
        f"{total:,} steps at {steps_per_second:,.0f} steps/s so far: about {duration(seconds)} of learning, and the "
        f"evaluations; about {in_words(estimate.memory)} of memory, up to {in_words(estimate.disk)} of disk "
        f"({in_words(estimate.final_disk)} in the end)"
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    peak: int = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes but on macOS


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for unit, size in (("days", 86_400), ("h", 3_600)):
        if seconds >= size * 1.5:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
