"""Checks of the tasks of a run before anything is written."""

from __future__ import annotations

from typing import cast

from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.trunk import check_observations, check_trunk
from blip_rl.methods.base import Method
from blip_rl.run.resources import check_training
from blip_rl.storage import validation
from blip_rl.storage.metadata import check_observation_type
from blip_rl.tasks.make import make_training_env


def check_tasks(config: RunConfig, method: Method) -> validation.Tasks:
    """Create every task's environment once, to find errors before anything is written.

    Returns:
        Name and action space of each task.

    Raises:
        UserError: A task cannot be created or does not fit the trunk, the method or the memory.
    """
    first: VecEnv | None = None
    tasks = []
    for task in config.tasks:
        env = make_training_env(task, config.atari, 1, 0)
        env.close()
        first = first or env
        check_observation_type(task.name, env.observation_space)
        check_observations(task.name, env.observation_space, config.tasks[0].name, first.observation_space)
        method.check_task(task.name, env.action_space)
        tasks.append((task.name, env.action_space))
    if config.agent.trunk.heads == "shared":
        _check_same_actions(tasks)
    check_trunk(cast(VecEnv, first).observation_space, config.agent.trunk)
    check_training(config, method, cast(VecEnv, first).observation_space, tasks)
    return tasks


def _check_same_actions(tasks: validation.Tasks) -> None:
    """Raise UserError if tasks that share a head have different actions."""
    first, actions = tasks[0]
    for name, own in tasks:
        if own != actions:
            raise UserError(
                f"trunk.heads = 'shared': task {name!r} has the actions {own}, but {first!r} has {actions}: "
                "expected the same for all tasks (for Atari games set atari.full_action_space = true; or heads = "
                "'per-task')"
            )
