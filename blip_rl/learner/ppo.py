"""stable-baselines3's PPO, extended to learn one task after another on the same agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.config import AgentConfig
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.trunk import check_observations
from blip_rl.methods.base import FinishedTask, Method, attached


class ContinualPPO(PPO):
    """PPO with a current task. Data collection and updates are stable-baselines3's own."""

    policy: ContinualPolicy

    def __init__(self, config: AgentConfig, task: str, env: VecEnv, *, seed: int, device: str) -> None:
        """Build the agent around its first task."""
        self.method = Method()
        numbers = config.ppo
        self._learning_rate_start = numbers.learning_rate
        linear = numbers.learning_rate_schedule == "linear"
        super().__init__(
            ContinualPolicy,
            env,
            learning_rate=(lambda left: left * numbers.learning_rate) if linear else numbers.learning_rate,
            n_steps=numbers.rollout_steps,
            batch_size=numbers.rollout_steps * numbers.environments // numbers.minibatches,
            n_epochs=numbers.epochs,
            gamma=numbers.discount,
            gae_lambda=numbers.gae_lambda,
            clip_range=numbers.clip_range,
            clip_range_vf=numbers.clip_range_value,
            ent_coef=numbers.entropy_coefficient,
            vf_coef=numbers.value_coefficient,
            max_grad_norm=numbers.max_gradient_norm,
            policy_kwargs={"trunk": config.trunk, "optimizer_kwargs": {"eps": numbers.adam_epsilon}},
            seed=seed,
            device=device,
        )
        self._first_task, self._first_observations = task, self.observation_space
        self.switch_task(task, env)

    def switch_task(self, task: str, env: VecEnv) -> None:
        """Learn this task next: its own head (new if the task is), its environments and a fresh optimizer.

        Raises:
            UserError: the task's observations do not fit the trunk.
        """
        env = self._wrap_env(env, self.verbose)  # frames with their channels last are transposed
        check_observations(task, env.observation_space, self._first_task, self._first_observations)
        if task not in self.policy.task_names:
            self.policy.add_task(task, env.action_space)
        self.policy.use_task(task)
        self.policy.new_optimizer(self._learning_rate_start)
        # Bounds may differ from task to task; set_env would refuse them.
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.set_env(env, force_reset=True)
        self.ep_info_buffer = None  # else the first averages of a game would be the last game's
        self.rollout_buffer = self.rollout_buffer_class(  # type: ignore[misc]
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
        )

    @contextmanager
    def protected_by(self, method: Method) -> Iterator[None]:
        """Learn the task in use with a method attached; it is detached again also after an error."""
        with attached(method, self.policy.trunk, self.policy.optimizer):
            self.method = method
            try:
                yield
            finally:
                self.method = Method()

    def train(self) -> None:
        """Update on the current rollout, as stable-baselines3 does it.

        Raises:
            FloatingPointError: training has diverged.
        """
        self.method.at_progress(self._progress())
        try:
            super().train()
        except ValueError:  # what torch's distributions say of logits that are not numbers
            self._check_weights()
            raise
        self._check_weights()

    def _progress(self) -> float:
        """Share of the current task's steps that have been taken, from 0 to 1."""
        start = self._num_timesteps_at_start
        return min(1.0, (self.num_timesteps - start) / (self._total_timesteps - start))

    def _check_weights(self) -> None:
        """Stop a training that has diverged: it would only go on writing rubbish."""
        if not all(bool(torch.isfinite(p).all()) for p in self.policy.parameters()):
            raise FloatingPointError(
                f"training diverged: a weight is not a finite number after step {self.num_timesteps:,} "
                "(a lower ppo.learning_rate may help)"
            )

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Progress within this call of ``learn``: schedules run once per task while the step count goes on.

        An update learns at the rate that held when its rollout began, as in openai/baselines: measured at the
        rollout's end, the last update of every task would have a rate of 0 and be wasted.
        """
        start = self._num_timesteps_at_start
        done = num_timesteps - self.n_steps * self.n_envs - start
        self._current_progress_remaining = 1.0 - max(0, done) / (total_timesteps - start)

    def finished_task(self, samples: int, generator: torch.Generator) -> FinishedTask:
        """The task in use as a method sees it at its end, with observations from fresh rollouts."""
        return FinishedTask(
            trunk=self.policy.trunk,
            head=self.policy.head,
            observations=self._fresh_observations(samples),
            preprocess=self.policy.preprocess,
            generator=generator,
            critic=self.policy.critic,
        )

    def _fresh_observations(self, samples: int) -> Tensor:
        """Play on with the learned, stochastic policy and keep what it sees: (samples, *observation shape)."""
        env = cast(VecEnv, self.env)
        kept: list[np.ndarray] = []
        observations = cast(np.ndarray, self._last_obs)
        for _ in range(-(-samples // env.num_envs)):
            kept.append(observations.copy())
            result: Any = env.step(self.policy.act(observations, greedy=False))
            observations = result[0]
        self._last_obs = observations
        if not kept:
            return torch.empty((0, *cast(tuple[int, ...], self.observation_space.shape)))
        return torch.from_numpy(np.concatenate(kept)[:samples])
