"""The objects that the modules of the training loop share, and the seeds of a run.

Every seed is derived from the run's seed and the position in the run. A resumed run thus needs no saved seeds to
create the same environments and to draw the same numbers in tasks that it has not started yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.console import Console
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout_states import RolloutStates
from blip_rl.methods.base import Method
from blip_rl.run.interruption import StopRequest
from blip_rl.run.plasticity import PlasticityRecorder
from blip_rl.run.scores import ScoreBook
from blip_rl.storage.returns import TrainingReturns
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.validation import Tasks
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.recorded import RecordedVecEnv

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
        callback: A callback of the user, called in every training; None without.
        rollout_states: Observations of the last rollouts of the task in use, if it is going to be distilled.
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
    callback: BaseCallback | None = None
    rollout_states: RolloutStates = field(default_factory=RolloutStates)
    _agent: ContinualPPO | None = field(default=None, init=False)

    @property
    def agent(self) -> ContinualPPO:
        """The learner; exists once :meth:`start_agent` has been called."""
        assert self._agent is not None, "the first task has not started"
        return self._agent

    @property
    def has_agent(self) -> bool:
        """Whether :meth:`start_agent` has been called."""
        return self._agent is not None

    def make_games(self, stage: int) -> RecordedVecEnv:
        """Create the training environments of a task, which record the actions taken in them.

        Args:
            stage: Number of the stage, counted from 1.
        """
        count = self.config.agent.ppo.environments
        groups = self.config.compute.groups(self.device, count)
        seed = training_seed(self.config.seed, stage)
        task = self.config.task_of(stage)
        return RecordedVecEnv(make_training_env(task, self.config.atari, count, seed, groups))

    def start_agent(self, task: str, games: VecEnv, known_tasks: Tasks = ()) -> ContinualPPO:
        """Create the learner.

        Args:
            task: Name of the first task that it learns, or resumes.
            games: That task's environments.
            known_tasks: Names and action spaces of the tasks that it already has a head for.
        """
        self._agent = ContinualPPO(
            self.config.agent,
            task,
            games,
            seed=self.config.seed,
            device=self.device,
            known_tasks=known_tasks,
            compute=self.config.compute,
            normalization=self.config,
        )
        self._agent.set_logger(self.logger)
        return self._agent


def training_seed(run_seed: int, stage: int) -> int:
    """Return the seed of the first training environment of a stage; environment k adds k."""
    return int(np.random.SeedSequence([run_seed, stage]).generate_state(1)[0]) % _TRAINING_SEEDS


def games_seed(run_seed: int, stage: int, env_steps: int) -> int:
    """Return the seed with which the environments are reset after ``env_steps`` steps of the run."""
    return int(np.random.SeedSequence([run_seed, stage, env_steps]).generate_state(1)[0]) % _TRAINING_SEEDS


def stage_seed(run_seed: int, stage: int) -> int:
    """Return the seed of the random draws of network and learner in a stage."""
    return int(np.random.SeedSequence([run_seed, stage, 0, 1]).generate_state(1)[0]) % _TRAINING_SEEDS
