"""What the parts of one run share while it is being made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.logger import Logger

from blip_rl.config import RunConfig
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import Method
from blip_rl.run.console import Console
from blip_rl.run.folder import RunFolder
from blip_rl.run.scores import ScoreBook

_TRAINING_SEEDS = 2**30 - 2**16  # below every evaluation seed, with room for one seed per environment


@dataclass
class RunParts:
    """One run's recipe, where it writes, and what learns; the agent exists from the first task on."""

    config: RunConfig
    folder: RunFolder
    device: str
    method: Method
    logger: Logger
    scores: ScoreBook
    console: Console
    agent: ContinualPPO | None = None


def training_seed(run_seed: int, stage: int) -> int:
    """Seed of the first training environment of a stage; the others follow it."""
    return int(np.random.SeedSequence([run_seed, stage]).generate_state(1)[0]) % _TRAINING_SEEDS
