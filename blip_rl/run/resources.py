"""The memory that a training needs at the least, told before any of it is taken.

A recipe may come from a stranger, or hold a slip of the pen: either way a message beats a machine that stops answering.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from blip_rl.config import RunConfig
from blip_rl.methods.base import Method
from blip_rl.storage import validation
from blip_rl.tasks.games import is_atari
from blip_rl.untrusted.machine import check_memory

_PER_WEIGHT = 4  # itself, its gradient and Adam's two moments
_PER_STEP = 32  # bytes of a rollout beside the observation: action, reward, value, advantage, …
_DISTILLING = 3  # copies of the weights: the shared trunk, the teacher, and the student while the teacher judges
_GAME_BYTES = {True: 1_700_000, False: 20_000}  # of one environment, measured: an emulator, a small Python game
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
    weights = validation.weight_bytes(validation.skeleton(observations, tasks, config.agent.trunk))
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
