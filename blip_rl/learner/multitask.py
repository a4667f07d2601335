"""Several tasks learned at once by one agent: a rollout and an update of each in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
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
    "_collector",
    "_captured",
)
"""What an agent holds of the task in use alone; the rest, its optimizer too, serves all tasks."""


class TaskSlot:
    """One task's place among the others.

    Attributes:
        name: The task's name.
        rollouts: Whole rollouts that the task learns from.
    """

    def __init__(self, agent: ContinualPPO, name: str, env: VecEnv, steps: int) -> None:
        """Make the task known to the agent and reset its environments; ``steps`` are rounded up to whole rollouts.

        Raises:
            UserError: the task's observations do not fit the trunk.
        """
        self.name = name
        agent.switch_task(name, env)
        self.rollouts = -(-steps // (agent.n_steps * agent.n_envs))
        agent._last_obs = agent.env.reset()  # type: ignore[union-attr, assignment]
        agent._last_episode_starts = np.ones((agent.n_envs,), dtype=bool)
        agent.ep_info_buffer = deque(maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
        self.keep(agent)

    def share_rollout(self, other: TaskSlot) -> None:
        """Use another task's storage if it fits: a rollout has been learned from before the next one begins."""
        mine, theirs = self._kept["action_space"], other._kept["action_space"]
        if type(mine) is type(theirs) and mine.shape == theirs.shape:
            self._kept["rollout_buffer"] = other._kept["rollout_buffer"]

    def keep(self, agent: ContinualPPO) -> None:
        """Take from the agent where the task has got to."""
        self._kept: dict[str, Any] = {name: getattr(agent, name) for name in _OF_A_TASK}

    def put(self, agent: ContinualPPO) -> None:
        """Put the agent before this task, where it was left."""
        agent.policy.use_task(self.name)
        for name, value in self._kept.items():
            setattr(agent, name, value)


class TaskSchedule:
    """All tasks of an agent that learns them at once; it is before one of them at a time."""

    def __init__(self, agent: ContinualPPO, tasks: Sequence[tuple[str, VecEnv, int]]) -> None:
        """Make all tasks known to the agent, with one optimizer over the trunk and every task's module.

        Args:
            agent: Built around the first task.
            tasks: (name, environments, steps) of each.

        Raises:
            UserError: a task's observations do not fit the trunk.
        """
        self._agent = agent
        self._slots = [TaskSlot(agent, name, env, steps) for name, env, steps in tasks]
        for slot in self._slots[1:]:
            slot.share_rollout(self._slots[0])
        self._in_use = self._slots[-1]
        self._in_use.put(agent)
        agent.policy.new_optimizer(agent.lr_schedule(1.0), agent.policy.task_names)
        self.order = [slot for n in range(self._most_rollouts) for slot in self._slots if n < slot.rollouts]
        self.use(self.order[0])

    @property
    def _most_rollouts(self) -> int:
        return max(slot.rollouts for slot in self._slots)

    @property
    def done(self) -> int:
        """Rollouts learned from so far, of all tasks: the place in ``order``."""
        return self._agent.num_timesteps // (self._agent.n_steps * self._agent.n_envs)

    def use(self, slot: TaskSlot) -> None:
        """Put the agent before a task; where it got to with the last one is kept."""
        self._in_use.keep(self._agent)
        slot.put(self._agent)
        self._in_use = slot

    def each(self) -> Iterator[str]:
        """Put the agent before one task after the other, in the recipe's order, and then back; yields their names."""
        before = self._in_use
        for slot in self._slots:
            self.use(slot)
            yield slot.name
        self.use(before)

    def resume(self) -> None:
        """Put the agent before the task whose turn it is; at the end before the one that was last."""
        self.use(self.order[min(self.done, len(self.order) - 1)])


def learn_interleaved(agent: ContinualPPO, schedule: TaskSchedule, callback: BaseCallback) -> None:
    """stable-baselines3's ``learn`` with the tasks in turn, a rollout and an update each, until all have had theirs.

    Schedules run once over the whole. A callback sees one training, as if there were one task. An agent that has taken
    some of the turns goes on with the next one.
    """
    schedule.resume()
    waiting = schedule.order[schedule.done :]
    total, callback = agent._setup_learn(agent.n_steps * agent.n_envs * len(waiting), callback, False)
    callback.on_training_start(locals(), globals())
    for slot in waiting:
        schedule.use(slot)
        if not _learn_from_one_rollout(agent, callback, slot.name, total):
            return
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
