"""stable-baselines3's PPO with a collection and an update of our own: what its compute, with fewer copies."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.config import ComputeConfig, PpoConfig
from blip_rl.learner.collector import Collector
from blip_rl.learner.cuda_graph import CapturedUpdate, can_capture
from blip_rl.learner.diagnostics import UpdateMetrics, check_finite, means
from blip_rl.learner.distributions import evaluate_actions
from blip_rl.learner.loss import ppo_loss
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.rollout import Minibatch, Rollout
from blip_rl.methods.base import Method


class BasePPO(PPO):
    """PPO over a :class:`ContinualPolicy` and a :class:`Rollout`, to whose loss a method may add.

    Schedules, logging and callbacks are stable-baselines3's own.

    Attributes:
        method: The one attached; by default one that does nothing.
    """

    policy: ContinualPolicy

    def __init__(self, *args: Any, ppo: PpoConfig, compute: ComputeConfig, **options: Any) -> None:
        """Take what stable-baselines3's PPO takes and two more.

        Args:
            args: Passed on.
            ppo: How the loss is computed; the rest of it must also be among the options.
            compute: How the device is used.
            options: Passed on.
        """
        self.method = Method()
        self._ppo, self._compute = ppo, compute
        self._collector: Collector | None = None
        self._captured: CapturedUpdate | None = None
        super().__init__(*args, **options)

    def discard_captures(self) -> None:
        """Record inference and update anew when they are next needed: tensors that they use are no longer the same."""
        self._collector, self._captured = None, None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` in every environment with the current policy, as stable-baselines3 does it.

        Returns:
            False if a callback asked to stop.
        """
        rollout, collector = cast(Rollout, rollout_buffer), self._collector_for(env)
        self.policy.set_training_mode(False)
        rollout.reset()
        callback.on_rollout_start()  # may restart the games
        dones = cast(np.ndarray, self._last_episode_starts)
        with self.policy.matmul_precision():
            for rewards, dones, infos in collector.collect(rollout, cast(np.ndarray, self._last_obs)):
                self.num_timesteps += env.num_envs
                callback.update_locals(locals())
                if not callback.on_step():
                    collector.finish_started_step(rollout)
                    self._last_obs = collector.observations
                    return False
                self._update_info_buffer(infos, dones)
                self._bootstrap_truncated(rewards, dones, infos)
                rollout.add(rewards, cast(np.ndarray, self._last_episode_starts))
                self._last_episode_starts = dones
            self._last_obs = collector.observations
            rollout.finish(self._values(self._last_obs), dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _collector_for(self, env: VecEnv) -> Collector:
        if self._collector is None or self._collector.env is not env:
            self._collector = Collector(env, self.policy, capture=self._captures)
        return self._collector

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
        self._current_progress_remaining = self.method.schedule_remaining(self._current_progress_remaining)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout, metrics = cast(Rollout, self.rollout_buffer), list[UpdateMetrics]()
        if self._ppo.normalize_advantage == "rollout":
            rollout.normalize_advantages()
        captured = self._captured_update(rollout)
        update, into = (self._update, None) if captured is None else (captured, captured.batch)
        try:
            for _ in range(self.n_epochs):
                for batch in rollout.minibatches(self.batch_size, into):
                    metrics.append(update(batch))  # one by one: those before an error tell its cause
                self._n_updates += 1
        except ValueError:  # what torch's distributions say, in a method's loss, of logits that are not numbers
            self._check_finite(metrics)
            raise
        self._check_finite(metrics)
        self._log_update(metrics, rollout)

    def _captured_update(self, rollout: Rollout) -> CapturedUpdate | None:
        """The update as one recorded piece, made when it is first needed; None where it cannot be one."""
        whole = rollout.buffer_size * rollout.n_envs % self.batch_size == 0
        if not (self._captures and self.method.capturable and whole):
            return None
        fixed = (self.policy.optimizer, self.batch_size, *self._clip_ranges())
        if self._captured is None or self._captured.fixed != fixed:
            batch = rollout.empty_minibatch(self.batch_size)
            self._captured = CapturedUpdate(self._update, self.policy.optimizer, batch, fixed)
        return self._captured

    @property
    def _captures(self) -> bool:
        return self._compute.capture == "auto" and can_capture(self.device)

    def _clip_ranges(self) -> tuple[float, float | None]:
        """Of the ratio, and of the values where theirs is limited."""
        left, of_values = self._current_progress_remaining, self.clip_range_vf
        return cast(Schedule, self.clip_range)(left), of_values(left) if callable(of_values) else None

    def _update(self, batch: Minibatch) -> UpdateMetrics:
        """One optimizer step; no metric is looked at here, which would wait for a GPU."""
        clip_range, clip_range_value = self._clip_ranges()
        with self.policy.matmul_precision():
            values, log_probs, entropy = evaluate_actions(self.policy, batch.observations, batch.actions)
            loss, metrics = ppo_loss(
                log_probs,
                entropy,
                values,
                batch,
                self._ppo,
                clip_range=clip_range,
                clip_range_value=clip_range_value,
            )
            extra = self.method.loss(self.policy.outputs_of)
            self.policy.optimizer.zero_grad()
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        norm = self.policy.step(self.max_grad_norm)
        return UpdateMetrics(metrics, None if extra is None else extra.detach(), norm)

    def _log_update(self, metrics: list[UpdateMetrics], rollout: Rollout) -> None:
        std = self.policy.log_std if isinstance(self.action_space, spaces.Box) else None
        for name, value in means(metrics, rollout, std).items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _progress(self) -> float:
        """Share of the current task's steps that have been taken, from 0 to 1."""
        start = self._num_timesteps_at_start
        return min(1.0, (self.num_timesteps - start) / (self._total_timesteps - start))

    def _check_finite(self, updates: list[UpdateMetrics]) -> None:
        task = self.policy.current_name
        check_finite(updates, dict(self.policy.named_parameters()), f"learning {task} at step {self.num_timesteps:,}")

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Progress within this call of ``learn``: schedules run once per task while the step count goes on.

        An update learns at the rate that held when its rollout began, as in openai/baselines: measured at the
        rollout's end, the last update of every task would have a rate of 0 and be wasted.
        """
        start = self._num_timesteps_at_start
        done = num_timesteps - self.n_steps * self.n_envs - start
        self._current_progress_remaining = 1.0 - max(0, done) / (total_timesteps - start)
