"""The objects that the modules of the training loop share, and the seeds of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.logger import Logger

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import Method
from blip_rl.run.interruption import StopRequest
from blip_rl.run.plasticity import PlasticityRecorder
from blip_rl.run.scores import ScoreBook
from blip_rl.storage.returns import TrainingReturns
from blip_rl.storage.run_folder import RunFolder

_TRAINING_SEEDS = 2**30 - 2**16  # below every evaluation seed; leaves room for consecutive seeds, one per environment


@dataclass
class RunContext:
    """Everything that one run works with.

    Attributes:
        config: The resolved recipe.
        folder: The run folder.
        device: Torch device: ``cpu``, ``cuda`` or ``cuda:N``.
        method: Protects earlier tasks.
        logger: Writes TensorBoard events.
        scores: Evaluates tasks and keeps the score matrix.
        plasticity: Measures plasticity at every evaluation.
        returns: Collects the returns of training episodes.
        console: Prints to the terminal.
        stop: Whether a signal has requested a stop.
        agent: The learner; None until the first task starts.
    """

    config: RunConfig
    folder: RunFolder
    device: str
    method: Method
    logger: Logger
    scores: ScoreBook
    plasticity: PlasticityRecorder
    returns: TrainingReturns
    console: Console
    stop: StopRequest
    agent: ContinualPPO | None = None


def training_seed(run_seed: int, stage: int) -> int:
    """Return the seed of the first training environment of a stage; environment k adds k."""
    return int(np.random.SeedSequence([run_seed, stage]).generate_state(1)[0]) % _TRAINING_SEEDS


def games_seed(run_seed: int, stage: int, env_steps: int) -> int:
    """Return the seed with which the environments are reset after ``env_steps`` steps of the run."""
    return int(np.random.SeedSequence([run_seed, stage, env_steps]).generate_state(1)[0]) % _TRAINING_SEEDS


def stage_seed(run_seed: int, stage: int) -> int:
    """Return the seed of the random draws of network and learner in a stage."""
    return int(np.random.SeedSequence([run_seed, stage, 0, 1]).generate_state(1)[0]) % _TRAINING_SEEDS
