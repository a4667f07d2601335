"""Multitask learning: one agent learns several tasks interleaved, one rollout and update of each in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.learner.ppo import ContinualPPO

# Each task has its own collector and captured update: their CUDA graphs refer to its head and to buffers of its shapes.
# The optimizer is shared: the update graphs of all tasks step the same moments of the trunk.
_OF_A_TASK = (
    "env",
    "observation_space",
    "action_space",
    "rollout_buffer",
    "_last_obs",
    "_last_episode_starts",
    "_rewards",
    "ep_info_buffer",
    "ep_success_buffer",
    "_collector",
    "_captured",
)
"""Agent attributes that belong to the task in use; all others, the optimizer included, are shared by all tasks."""


class TaskSlot:
    """One task of a schedule, and its part of the agent's state while another task is in use.

    Attributes:
        name: The task's name.
        rollouts: Number of rollouts that the task learns from.
    """

    def __init__(self, agent: ContinualPPO, name: str, env: VecEnv, steps: int) -> None:
        """Add the task to the agent and reset its environments; ``steps`` are rounded up to whole rollouts.

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
        self.save(agent)

    def share_rollout(self, other: TaskSlot) -> None:
        """Share another task's rollout storage if the shapes match; rollouts are never needed at the same time."""
        mine, theirs = self._saved["action_space"], other._saved["action_space"]
        if type(mine) is type(theirs) and mine.shape == theirs.shape:
            self._saved["rollout_buffer"] = other._saved["rollout_buffer"]

    def save(self, agent: ContinualPPO) -> None:
        """Save the task's part of the agent's state."""
        self._saved: dict[str, Any] = {name: getattr(agent, name) for name in _OF_A_TASK}

    def restore(self, agent: ContinualPPO) -> None:
        """Restore the task's part of the agent's state and make it the task in use."""
        agent.policy.use_task(self.name)
        for name, value in self._saved.items():
            setattr(agent, name, value)


class TaskSchedule:
    """The order in which an agent learns its tasks, a rollout at a time.

    Attributes:
        order: The slot of each rollout: round-robin over the tasks that still have rollouts left.
    """

    def __init__(self, agent: ContinualPPO, tasks: Sequence[tuple[str, VecEnv, int]]) -> None:
        """Add all tasks to the agent, with one optimizer over the trunk and every task's module.

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
        self._in_use.restore(agent)
        # TaskSlot's switch_task made an optimizer of one task's module each time; this one replaces them all.
        agent.policy.new_optimizer(agent.lr_schedule(1.0), agent.policy.task_names)
        rounds = max(slot.rollouts for slot in self._slots)
        self.order = [slot for n in range(rounds) for slot in self._slots if n < slot.rollouts]
        self.use(self.order[0])

    @property
    def done(self) -> int:
        """Number of rollouts learned from so far, over all tasks: the position in ``order``."""
        return self._agent.num_timesteps // (self._agent.n_steps * self._agent.n_envs)

    def use(self, slot: TaskSlot) -> None:
        """Switch the agent to a task, saving the state of the one before."""
        self._in_use.save(self._agent)
        slot.restore(self._agent)
        self._in_use = slot

    def each(self) -> Iterator[str]:
        """Switch to each task in the recipe's order and yield its name, then switch back."""
        before = self._in_use
        for slot in self._slots:
            self.use(slot)
            yield slot.name
        self.use(before)

    def resume(self) -> None:
        """Switch to the task of the next rollout; after the last rollout, to that of the last."""
        self.use(self.order[min(self.done, len(self.order) - 1)])


def learn_interleaved(agent: ContinualPPO, schedule: TaskSchedule, callback: BaseCallback) -> None:
    """Run stable-baselines3's ``learn`` with interleaved tasks, one rollout and update at a time.

    Learning rate schedules run once over all tasks. Callbacks see a single training. An agent that has already learned
    from some of the rollouts resumes with the next one.
    """
    schedule.resume()
    waiting = schedule.order[schedule.done :]
    total, callback = agent._setup_learn(agent.n_steps * agent.n_envs * len(waiting), callback, False)
    callback.on_training_start(locals(), globals())
    for slot in waiting:
        schedule.use(slot)
        if not _learn_from_one_rollout(agent, callback, total):
            break
    callback.on_training_end()


def _learn_from_one_rollout(agent: ContinualPPO, callback: BaseCallback, total: int) -> bool:
    """Return False if a callback asked to stop."""
    assert agent.env is not None
    if not agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps):
        return False
    agent._update_current_progress_remaining(agent.num_timesteps, total)
    agent.dump_logs()
    agent.train()
    return True
