"""Several tasks learned at once by one agent: a rollout and an update of each in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.learner.ppo import ContinualPPO

_OF_A_TASK = (
    "env",
    "observation_space",
    "action_space",
    "rollout_buffer",
    "_last_obs",
    "_last_episode_starts",
    "ep_info_buffer",
    "ep_success_buffer",
    "_lanes",
    "_captured",
)
"""What an agent holds of the task in use alone; the rest, its optimizer too, serves all tasks."""


class Turn:
    """One task's place among the others.

    Attributes:
        name: The task's name.
        rollouts_left: Whole rollouts that the task has still to learn from.
    """

    def __init__(self, agent: ContinualPPO, name: str, env: VecEnv, steps: int) -> None:
        """Make the task known to the agent and reset its environments; ``steps`` are rounded up to whole rollouts.

        Raises:
            UserError: the task's observations do not fit the trunk.
        """
        self.name = name
        self._agent = agent
        agent.switch_task(name, env)
        self.rollouts_left = -(-steps // (agent.n_steps * agent.n_envs))
        agent._last_obs = agent.env.reset()  # type: ignore[union-attr, assignment]
        agent._last_episode_starts = np.ones((agent.n_envs,), dtype=bool)
        agent.ep_info_buffer = deque(maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
        self._kept = self._held_by_agent()

    def share_rollout(self, other: Turn) -> None:
        """Use another task's storage if it fits: a rollout has been learned from before the next one begins."""
        mine, theirs = self._kept["action_space"], other._kept["action_space"]
        if type(mine) is type(theirs) and mine.shape == theirs.shape:
            self._kept["rollout_buffer"] = other._kept["rollout_buffer"]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the agent before this task; afterwards keep where it got to."""
        self._agent.policy.use_task(self.name)
        for name, value in self._kept.items():
            setattr(self._agent, name, value)
        try:
            yield
        finally:
            self._kept = self._held_by_agent()

    def _held_by_agent(self) -> dict[str, Any]:
        return {name: getattr(self._agent, name) for name in _OF_A_TASK}


def take_turns(agent: ContinualPPO, tasks: Sequence[tuple[str, VecEnv, int]]) -> list[Turn]:
    """Make all tasks known to the agent, with one optimizer over the trunk and every task's module.

    Args:
        agent: Built around the first task.
        tasks: (name, environments, steps) of each.

    Raises:
        UserError: a task's observations do not fit the trunk.
    """
    turns = [Turn(agent, name, env, steps) for name, env, steps in tasks]
    for turn in turns[1:]:
        turn.share_rollout(turns[0])
    agent.policy.new_optimizer(agent.lr_schedule(1.0), agent.policy.task_names)
    return turns


def learn_in_turns(agent: ContinualPPO, turns: Sequence[Turn], callback: BaseCallback) -> None:
    """stable-baselines3's ``learn`` with the tasks in turn, a rollout and an update each, until all have had theirs.

    Schedules run once over the whole. A callback sees one training, as if there were one task.
    """
    rollout = agent.n_steps * agent.n_envs
    steps = rollout * sum(turn.rollouts_left for turn in turns)
    total, callback = agent._setup_learn(steps, callback, reset_num_timesteps=False)
    callback.on_training_start(locals(), globals())
    while waiting := [turn for turn in turns if turn.rollouts_left]:
        for turn in waiting:
            with turn.in_use():
                if not _learn_from_one_rollout(agent, callback, turn.name, total):
                    return
            turn.rollouts_left -= 1
    callback.on_training_end()


def _learn_from_one_rollout(agent: ContinualPPO, callback: BaseCallback, task: str, total: int) -> bool:
    """False if the callback asked to stop."""
    assert agent.env is not None
    if not agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps):
        return False
    agent._update_current_progress_remaining(agent.num_timesteps, total)
    if agent.ep_info_buffer:
        # stable-baselines3's own tags would mix the games.
        agent.logger.record(f"rollout/{task}/ep_rew_mean", safe_mean([info["r"] for info in agent.ep_info_buffer]))
        agent.logger.record(f"rollout/{task}/ep_len_mean", safe_mean([info["l"] for info in agent.ep_info_buffer]))
    agent.logger.dump(agent.num_timesteps)
    agent.train()
    return True
