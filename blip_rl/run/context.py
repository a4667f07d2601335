"""What the parts of one run share while it is being made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.logger import Logger

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import Method
from blip_rl.run.interruption import StopRequest
from blip_rl.run.plasticity import PlasticityPanel
from blip_rl.run.scores import ScoreBook
from blip_rl.storage.returns import TrainingReturns
from blip_rl.storage.run_folder import RunFolder

_TRAINING_SEEDS = 2**30 - 2**16  # below every evaluation seed, with room for one seed per environment


@dataclass
class RunContext:
    """One run's recipe, where it writes, and what learns; the agent exists from the first task on."""

    config: RunConfig
    folder: RunFolder
    device: str
    method: Method
    logger: Logger
    scores: ScoreBook
    plasticity: PlasticityPanel
    returns: TrainingReturns
    console: Console
    stop: StopRequest
    agent: ContinualPPO | None = None


def training_seed(run_seed: int, stage: int) -> int:
    """Seed of the first training environment of a stage; the others follow it."""
    return int(np.random.SeedSequence([run_seed, stage]).generate_state(1)[0]) % _TRAINING_SEEDS


def games_seed(run_seed: int, stage: int, env_steps: int) -> int:
    """Seed of the first training environment where games start anew in the middle of a stage."""
    return int(np.random.SeedSequence([run_seed, stage, env_steps]).generate_state(1)[0]) % _TRAINING_SEEDS


def stage_seed(run_seed: int, stage: int) -> int:
    """Seed of the network's and the learner's random draws in a stage: the same whether or not a run was stopped."""
    return int(np.random.SeedSequence([run_seed, stage, 0, 1]).generate_state(1)[0]) % _TRAINING_SEEDS
