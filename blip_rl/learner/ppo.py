"""stable-baselines3's PPO, extended to learn one task after another on the same agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.config import AgentConfig
from blip_rl.learner.diverged import UpdateFigures, check_finite
from blip_rl.learner.loss import LossFigures, ppo_loss
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.rollout import Minibatch, Rollout
from blip_rl.learner.trunk import check_observations
from blip_rl.methods.base import FinishedTask, Method, attached


class ContinualPPO(PPO):
    """PPO with a current task.

    Schedules, logging and callbacks are stable-baselines3's own. Collection and update compute what its do, with fewer
    copies, and let a method add to the loss.
    """

    policy: ContinualPolicy

    def __init__(
        self,
        config: AgentConfig,
        task: str,
        env: VecEnv,
        *,
        seed: int,
        device: str,
        known_tasks: Sequence[tuple[str, spaces.Space[Any]]] = (),
    ) -> None:
        """Build the agent around its first task, or around any task once others are known to it.

        Args:
            config: How to learn.
            task: Name of the task to learn.
            env: Its environments.
            seed: Of every random draw.
            device: Where the network is.
            known_tasks: Names and action spaces of tasks that get a head first, in their order.
        """
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
            rollout_buffer_class=cast(Any, Rollout),
        )
        for name, action_space in known_tasks:
            self.policy.add_task(name, action_space)
        first = known_tasks[0][0] if known_tasks else task
        self._first_task, self._first_observations = first, self.observation_space
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
        self.task_began_at = self.num_timesteps
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

    def learn_task(self, steps: int, callback: BaseCallback, began_at: int | None = None) -> None:
        """Learn until the task in use has had ``steps`` steps.

        Args:
            steps: Of the whole task.
            callback: Told of everything.
            began_at: Step count of the run at which the task began, for one that goes on; None begins it now.
        """
        self.task_began_at = self.num_timesteps if began_at is None else began_at
        self.learn(self.task_began_at + steps - self.num_timesteps, callback, reset_num_timesteps=False)

    def _setup_learn(self, total_timesteps: int, *args: Any, **options: Any) -> tuple[int, BaseCallback]:
        """Schedules count from the task's first step, also where learning goes on in the middle of it."""
        result = super()._setup_learn(total_timesteps, *args, **options)
        self._num_timesteps_at_start = min(self.task_began_at, self._num_timesteps_at_start)
        return result

    def just_passed(self, every_steps: int) -> bool:
        """Whether the last rollout took the task past a multiple of ``every_steps``; asked between two updates."""
        done = self.num_timesteps - self.task_began_at
        return done // every_steps > max(0, done - self.n_steps * self.n_envs) // every_steps

    def restart_games(self, seed: int) -> None:
        """Begin new games from a seed: a point that a run can come back to."""
        env = cast(VecEnv, self.env)
        env.seed(seed)
        self._last_obs = cast(np.ndarray, env.reset())
        self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)

    def replay_games(self, seed: int, actions: np.ndarray) -> None:
        """Bring the games to where these actions led from a seed; see :mod:`blip_rl.tasks.recorded`."""
        self.restart_games(seed)
        env = cast(VecEnv, self.env)
        for step in actions:
            observations, _, dones, _ = env.step(step.astype(np.int64) if step.dtype.kind == "u" else step)
            self._last_obs, self._last_episode_starts = cast(np.ndarray, observations), dones

    @contextmanager
    def protected_by(self, method: Method, *, resume: bool = False) -> Iterator[None]:
        """Learn the task in use, or go on in its middle, with a method attached; it is detached also after an error."""
        with attached(method, self.policy.trunk, self.policy.optimizer, resume=resume):
            self.method = method
            try:
                yield
            finally:
                self.method = Method()

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` in every environment with the current policy, as stable-baselines3 does it.

        Returns:
            False if a callback asked to stop.
        """
        rollout = cast(Rollout, rollout_buffer)
        self.policy.set_training_mode(False)
        rollout.reset()
        callback.on_rollout_start()  # may restart the games
        dones = cast(np.ndarray, self._last_episode_starts)
        for _ in range(n_rollout_steps):
            with torch.no_grad():
                actions, values, log_probs = self.policy(rollout.observe(cast(np.ndarray, self._last_obs)))
            observations, rewards, dones, infos = env.step(self.policy.within_bounds(actions.cpu().numpy()))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            self._bootstrap_truncated(rewards, dones, infos)
            rollout.add(actions, values, log_probs, rewards, cast(np.ndarray, self._last_episode_starts))
            self._last_obs, self._last_episode_starts = cast(np.ndarray, observations), dones
        rollout.finish(self._values(cast(np.ndarray, self._last_obs)), dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap_truncated(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Where a limit cut an episode off, add what the rest would have been worth to the last reward."""
        for index in np.flatnonzero(dones).tolist():
            last = infos[index].get("terminal_observation")
            if last is not None and infos[index].get("TimeLimit.truncated", False):
                rewards[index] += self.gamma * self._values(last[None]).item()

    def _values(self, observations: np.ndarray) -> Tensor:
        with torch.no_grad():
            tensor = torch.from_numpy(observations).to(self.device)
            return self.policy.critic(self.policy.extract_features(tensor))

    def train(self) -> None:
        """Update on the current rollout: PPO's epochs of minibatches, and whatever the method adds.

        Raises:
            FloatingPointError: training has diverged.
        """
        self.method.at_progress(self._progress())
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout, figures = cast(Rollout, self.rollout_buffer), list[UpdateFigures]()
        try:
            for _ in range(self.n_epochs):
                for batch in rollout.minibatches(self.batch_size):
                    figures.append(self._update(batch))  # one by one: those before an error tell its cause
                self._n_updates += 1
        except ValueError:  # what torch's distributions say of logits that are not numbers
            self._check_finite(figures)
            raise
        self._check_finite(figures)
        self._log_update(figures, rollout)

    def _update(self, batch: Minibatch) -> UpdateFigures:
        """One optimizer step; no figure is looked at here, which would wait for a GPU."""
        values, log_probs, entropy = self.policy.evaluate_actions(batch.observations, batch.actions)
        clip_value = self.clip_range_vf
        loss, figures = ppo_loss(
            log_probs,
            cast(Tensor, entropy),
            values.flatten(),
            batch,
            clip_range=cast(Schedule, self.clip_range)(self._current_progress_remaining),
            clip_range_value=clip_value(self._current_progress_remaining) if callable(clip_value) else None,
            entropy_coefficient=self.ent_coef,
            value_coefficient=self.vf_coef,
        )
        extra = self.method.loss(self.policy.outputs_of)
        self.policy.optimizer.zero_grad()
        (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        norm = self.policy.step(self.max_grad_norm)
        return UpdateFigures(figures, None if extra is None else extra.detach(), norm)

    def _log_update(self, figures: list[UpdateFigures], rollout: Rollout) -> None:
        means = torch.stack([torch.stack(update.losses) for update in figures]).mean(0).tolist()
        for name, value in zip(LossFigures._fields, means, strict=True):
            self.logger.record(f"train/{name}", value)
        explained = explained_variance(rollout.values.flatten().cpu().numpy(), rollout.returns.flatten().cpu().numpy())
        self.logger.record("train/explained_variance", explained)
        if isinstance(self.action_space, spaces.Box):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _progress(self) -> float:
        """Share of the current task's steps that have been taken, from 0 to 1."""
        start = self._num_timesteps_at_start
        return min(1.0, (self.num_timesteps - start) / (self._total_timesteps - start))

    def _check_finite(self, updates: list[UpdateFigures]) -> None:
        task = self.policy.task_names[list(self.policy.tasks).index(self.policy.current)]
        check_finite(updates, dict(self.policy.named_parameters()), f"learning {task} at step {self.num_timesteps:,}")

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
