"""The agent of one stage, ready to play one game, with stable-baselines3's ``predict``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import chosen_games, chosen_stages, load_player
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.limits import LARGEST_EVALUATION_SEED
from blip_rl.methods.base import Method
from blip_rl.storage.run_folder import RunFolder
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED


class Agent:
    """Plays one game of a run with the weights of one stage.

    ``stable_baselines3.common.evaluation.evaluate_policy`` and other code that only calls ``predict`` accept it as a
    model.

    Attributes:
        stage: Number of the stage, counted from 1.
        game: Name of the game in the run.
    """

    def __init__(
        self, policy: ContinualPolicy, method: Method, task: TaskConfig, config: RunConfig, stage: int
    ) -> None:
        self.stage, self.game = stage, task.name
        self._policy, self._task, self._config = policy, task, config
        policy.set_training_mode(False)
        policy.use_task(task.name)
        self._weights = ExitStack()  # kept open: its end would restore the weights that do not play this game
        self._weights.enter_context(method.playing(policy.protected, policy.current_number))

    def __repr__(self) -> str:
        return f"<Agent of stage {self.stage} that plays {self.game}>"

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of one observation."""
        return self._policy.observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of one action."""
        return self._policy.action_space

    def predict(
        self,
        observation: npt.ArrayLike,
        state: None = None,
        episode_start: npt.ArrayLike | None = None,
        deterministic: bool = True,
    ) -> tuple[npt.NDArray[Any], None]:
        """Choose an action for one observation, or for each of a batch.

        Args:
            observation: As the environment returns it, shape ``observation_space.shape`` or (n, …).
            state: None; stable-baselines3 passes it for recurrent policies.
            episode_start: Ignored, as ``state``.
            deterministic: Take the most probable action; False samples one.

        Returns:
            One action, or n, and None.

        Raises:
            UserError: The observation has another shape or type than the game's.
        """
        given, space = np.asarray(observation), cast(spaces.Box, self._policy.observation_space)
        single = given.ndim == len(space.shape)
        batch = given[None] if single else given
        fits = given.ndim and batch.shape[1:] == space.shape and len(batch)
        if not fits or not np.can_cast(batch.dtype, cast(Any, space.dtype), "same_kind"):
            raise UserError(
                f"observation of {given.dtype} {given.shape}: expected {space.dtype} {space.shape}, or (n, …) for "
                "several (agent.make_env() makes an environment that returns such observations)"
            )
        try:
            actions = self._policy.act(batch.astype(space.dtype, copy=False), greedy=deterministic)
        except ValueError as error:
            raise UserError(f"the agent of stage {self.stage} cannot play {self.game}: {error}") from error
        return (actions[0] if single else actions), None

    def make_env(self, n_envs: int = 1, seed: int = 0) -> VecEnv:
        """Make the game as it is evaluated: the run's preprocessing, raw rewards, whole games as episodes.

        Args:
            n_envs: Number of copies that are played in parallel.
            seed: Evaluation seed of the first copy, as in ``scores.csv``; copy k has ``seed + k``.

        Raises:
            UserError: A number is out of range, or the game cannot be made on this machine.
        """
        for name, value, least, most in (("n_envs", n_envs, 1, 1_024), ("seed", seed, 0, LARGEST_EVALUATION_SEED)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(f"{name} = {value!r}: expected a whole number from {least} to {most:,}")
        return make_evaluation_env(self._task, self._config.atari, n_envs, FIRST_EVALUATION_SEED + seed)


def load_agent(run: Path, config: RunConfig, stage: int | None, game: str | None) -> Agent:
    """Load the agent of a stage from its checkpoint.

    Args:
        run: The run folder.
        config: Its configuration.
        stage: Number of the stage, counted from 1; None: the last one that has a checkpoint.
        game: A game that it has learned; None: the one that the stage learned.

    Raises:
        UserError: There is no such stage, it has not learned the game, or the checkpoint is damaged.
    """
    number = chosen_stages(RunFolder.existing(run), config, None if stage is None else [stage])[-1]
    (name,) = [config.task_of(number).name] if game is None else chosen_games(config, [game])
    loaded, method = load_player(run, config, number)
    known = loaded.policy.task_names
    if name not in known:
        raise UserError(f"the agent of stage {number} has not learned {name}: expected one of {', '.join(known)}")
    (task,) = [task for task in config.tasks if task.name == name]
    return Agent(loaded.policy, method, task, config, number)
