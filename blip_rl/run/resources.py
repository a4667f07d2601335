"""Memory and disk that a run needs: a check before anything is allocated, and a forecast early in the first task.

A recipe may be untrusted or hold a typo. An error message is better than a machine that swaps.
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
from blip_rl.formatting import duration
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.methods.base import Method, Network, parameter_bytes
from blip_rl.methods.fisher_method import FisherMethod
from blip_rl.storage import validation
from blip_rl.tasks.games import is_atari
from blip_rl.untrusted.machine import check_memory, in_words

_PER_WEIGHT = 4  # copies: the weight, its gradient and Adam's two moments
_PER_STEP = 32  # bytes of a rollout besides the observation: action, reward, value, advantage, …
_DISTILLING = 3  # copies of the weights: shared trunk, teacher, and student while the teacher labels its states
_GAME_BYTES = {True: 1_700_000, False: 20_000}  # of one environment, measured: Atari emulator, small Python environment
_SNAPSHOTS = 2
_MOMENTS = 2  # Adam's, per weight
_SAVING = 4  # copies of weights and moments while a snapshot is saved
_CONSOLIDATING = 7  # copies of the trunk during consolidation with a Fisher: measured 5.3 with BLIP, 6.2 with EWC
_PLOTS = 60_000_000  # bytes: matplotlib, loaded at the end of the first task
_LONG_RUN_SECONDS = 120
_ADVICE = (
    "reduce the trunk's layers, ppo.environments, ppo.rollout_steps, atari.frame_size, atari.frame_stack, the method's "
    "samples or the states to distil on"
)


def check_training(config: RunConfig, method: Method, observations: spaces.Space[Any], tasks: validation.Tasks) -> None:
    """Check that the memory which the recipe determines fits into this machine.

    Args:
        config: The resolved recipe.
        method: Its method.
        observations: Observation space of one environment.
        tasks: Names and action spaces of the tasks.

    Raises:
        UserError: It does not fit; the message lists the memory needed by its use.
    """
    frame = _bytes(observations)
    weights = validation.weight_bytes(validation.meta_policy(observations, tasks, config))
    parts = learning_parts(config, observations, weights, together=method.interleaved)
    parts[f"{method.samples_wanted:,} observations for the method"] = float(method.samples_wanted * frame)
    if config.learned_apart(config.stages):
        parts["distilling, with teacher and shared trunk"] = float(
            _distilling_states(config) * frame + weights * _DISTILLING
        )
    check_memory("this recipe", parts, _ADVICE)


def learning_parts(
    config: RunConfig, observations: spaces.Space[Any], weight_bytes: int, *, together: bool = False
) -> dict[str, float]:
    """Return the memory that learning one task, or all tasks together, takes, in bytes by its use."""
    ppo, frame = config.agent.ppo, _bytes(observations)
    steps = ppo.environments * ppo.rollout_steps
    games = ppo.environments * (len(config.tasks) if together else 1)
    largest_game = max(_GAME_BYTES[is_atari(task.game)] for task in config.tasks)
    return {
        "weights, gradients and optimizer": float(weight_bytes * _PER_WEIGHT),
        f"rollouts of {steps:,} steps": float(steps * (frame + _PER_STEP)),
        f"{games:,} games": float(games * (largest_game + frame)),
    }


def _distilling_states(config: RunConfig) -> int:
    """Return the most states in memory while a task is distilled: those that are kept, and the newest ones twice."""
    distil = config.agent.distil
    return config.rollout_states(config.stages) + distil.steps + max(distil.teacher_states, distil.student_states)


def _bytes(space: spaces.Space[Any]) -> int:
    return math.prod(space.shape or ()) * np.dtype(space.dtype).itemsize


@dataclass(frozen=True)
class ResourceEstimate:
    """Estimated needs of a run, in bytes.

    Attributes:
        disk: Largest size of the run folder: checkpoints and the snapshots to resume from.
        final_disk: Size of the run folder once the run has finished and its snapshots are removed.
        memory: Peak memory of the process.
    """

    disk: int
    final_disk: int
    memory: int


def estimate_resources(
    config: RunConfig, policy: ContinualPolicy, method: Method, peak_memory_bytes: int
) -> ResourceEstimate:
    """Estimate the disk and memory that a run needs.

    Args:
        config: The resolved recipe.
        policy: Its network, with a task in use; the meta device is enough.
        method: The run's method.
        peak_memory_bytes: Peak memory of the process so far, while it learns a task.
    """
    space, tasks = policy.observation_space, len(config.tasks)
    # Not every task's head is known yet: assume the same number of outputs for all tasks.
    outputs = (policy.current.actor.out_features,)
    weights, head = parameter_bytes(policy.trunk), parameter_bytes(policy.current)
    heads = [len(config.seen(stage)) for stage in ([config.stages] if method.interleaved else config.all_stages)]
    trunk, each = policy.protected, 0 if config.agent.trunk.heads == "shared" else head
    stages = [
        weights + head + (count - 1) * each + method.kept_bytes(Network(trunk, space, count * outputs))
        for count in heads
    ]
    apart = config.learned_apart(config.stages)
    aside = weights if apart else 0  # the shared trunk is kept while a task is learned apart
    rollouts = config.rollout_states(config.stages)
    snapshot = stages[-1] + aside + _MOMENTS * (weights + head) + rollouts * _bytes(space)
    # A third snapshot is written before the oldest is removed; the last task's checkpoint is written after that.
    disk = max(sum(stages[:-1]) + (_SNAPSHOTS + 1) * snapshot, sum(stages) + _SNAPSHOTS * snapshot)
    growth = max(0, method.kept_bytes(Network(trunk, space, tasks * outputs)) - _held(method))
    inner = method.inner if isinstance(method, LearnApart) else method
    copies = _CONSOLIDATING if isinstance(inner, FisherMethod) else _SAVING
    # The states to distil on are freed before the method's samples are collected.
    states = max(_distilling_states(config) if apart else 0, method.samples_wanted)
    memory = peak_memory_bytes + growth + aside + _PLOTS + states * _bytes(space) + copies * weights
    return ResourceEstimate(disk, sum(stages), memory)


def _held(method: Method) -> int:
    return sum(int(tensor.nbytes) for tensor in method.state().tensors.values())


def forecast(config: RunConfig, agent: ContinualPPO, method: Method, steps_per_second: float) -> str | None:
    """Describe the time, memory and disk that a run needs; None for a run of less than two minutes.

    Args:
        config: The resolved recipe.
        agent: Has learned its first task for a few rollouts.
        method: The run's method.
        steps_per_second: Training speed measured in those rollouts.
    """
    total = config.all_played_steps
    seconds = total / steps_per_second
    if seconds < _LONG_RUN_SECONDS:
        return None
    estimate = estimate_resources(config, agent.policy, method, peak_memory_bytes())
    return (
        f"{total:,} steps at {steps_per_second:,.0f} steps/s so far: about {duration(seconds)} of training, plus "
        f"evaluations; about {in_words(estimate.memory)} of memory, up to {in_words(estimate.disk)} of disk "
        f"({in_words(estimate.final_disk)} when finished)"
    )


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process, in bytes."""
    peak: int = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # ru_maxrss is in kilobytes, on macOS in bytes
