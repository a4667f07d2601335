"""stable-baselines3's PPO with its rollout collection and update replaced by faster ones that compute the same.

Fewer copies, no host synchronisation per minibatch, CUDA graphs where available. Equality with stable-baselines3 is
tested in tests/learner/test_base_ppo.py and by scripts/parity.py. What differs from its PPO, on purpose:

- the learning rate of an update is that of the beginning of its rollout, not of its end
- ``train/loss`` and ``train/approx_kl`` are means over all minibatches, not the last one's or the last epoch's
- losses and weights are checked for non-finite values once per update; there is no early stopping on the KL divergence
- a callback's ``locals`` hold ``rewards``, ``dones`` and ``infos`` of a step, but not its observations and actions
"""

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

from blip_rl.agent_config import PpoConfig
from blip_rl.config import ComputeConfig
from blip_rl.learner.adam import clipped_step
from blip_rl.learner.collector import Collector
from blip_rl.learner.cuda_graph import CapturedUpdate, can_capture
from blip_rl.learner.diagnostics import UpdateMetrics, check_finite, means
from blip_rl.learner.distributions import evaluate_actions
from blip_rl.learner.loss import ppo_loss
from blip_rl.learner.normalization import RewardNormalizer
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.rollout import Minibatch, Rollout
from blip_rl.methods.base import Method


class BasePPO(PPO):
    """PPO over a :class:`ContinualPolicy` and a :class:`Rollout`, with the hooks of a continual learning method.

    Schedules, logging and callbacks are stable-baselines3's own.

    Attributes:
        method: The attached method; by default the base class, which does nothing.
    """

    policy: ContinualPolicy

    def __init__(self, *args: Any, ppo: PpoConfig, compute: ComputeConfig, **options: Any) -> None:
        """Build PPO. All arguments except ``ppo`` and ``compute`` are passed to stable-baselines3's ``PPO``.

        Args:
            args: Of stable-baselines3's ``PPO``.
            ppo: Settings of the loss; those that stable-baselines3 also has must be in ``options`` too.
            compute: Precision, capture and compilation.
            options: Of stable-baselines3's ``PPO``.
        """
        self.method = Method()
        self._ppo, self._compute = ppo, compute
        # Built at first use, because both depend on the task in use; see discard_captures.
        self._collector: Collector | None = None
        self._captured: CapturedUpdate | None = None
        self._rewards = RewardNormalizer(None, ppo.discount, 0)
        super().__init__(*args, **options)

    def discard_captures(self) -> None:
        """Drop all CUDA graphs, to be captured anew: tensors whose addresses they hold have been replaced."""
        self._collector, self._captured = None, None

    def _excluded_save_params(self) -> list[str]:
        """Leave out of ``save``, which callbacks may call, what is rebuilt at first use and cannot be pickled."""
        return [*super()._excluded_save_params(), "_collector", "_captured"]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect ``n_rollout_steps`` of every environment with the current policy, as stable-baselines3 does.

        Returns:
            False if a callback asked to stop.
        """
        rollout, collector = cast(Rollout, rollout_buffer), self._collector_for(env)
        self.policy.set_training_mode(False)
        rollout.reset()
        # Autosave may reset the environments here (to keep the action log short): read _last_obs only afterwards.
        callback.on_rollout_start()
        dones = cast(np.ndarray, self._last_episode_starts)
        self._rewards.begin()
        with self.policy.matmul_precision():
            for rewards, dones, infos in collector.collect(rollout, cast(np.ndarray, self._last_obs)):
                self.num_timesteps += env.num_envs
                callback.update_locals(locals())  # under the names rewards, dones and infos
                if not callback.on_step():
                    # The rollout is discarded. Environments and last observations stay consistent, for a later save.
                    collector.finish_started_step(rollout)
                    self._last_obs = collector.observations
                    return False
                self._update_info_buffer(infos, dones)
                rewards = self._rewards.normalize(rewards, dones)  # callbacks have had the raw ones
                self._bootstrap_truncated(rewards, dones, infos)  # in place, so before the rollout copies them
                # A step is stored with the flag of its own observation: dones are the next step's episode starts.
                rollout.add(rewards, cast(np.ndarray, self._last_episode_starts))
                self._last_episode_starts = dones
            self._last_obs = collector.observations
            rollout.finish(self._values(self._last_obs), dones)
        self._rewards.end()
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _collector_for(self, env: VecEnv) -> Collector:
        if self._collector is None or self._collector.env is not env:
            self._collector = Collector(env, self.policy, capture=self._captures)
        return self._collector

    def _bootstrap_truncated(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Add γ·V(last observation) to the reward where a time limit truncated an episode: its value is not 0."""
        for index in np.flatnonzero(dones).tolist():
            last = infos[index].get("terminal_observation")
            if last is not None and infos[index].get("TimeLimit.truncated", False):
                # One observation at a time, as stable-baselines3: truncations are rare, a batch rounds differently.
                rewards[index] += self.gamma * self._values(last[None]).item()

    def _values(self, observations: np.ndarray) -> Tensor:
        with torch.no_grad():
            tensor = torch.from_numpy(observations).to(self.device)
            return self.policy.critic(self.policy.extract_features(tensor))

    def train(self) -> None:
        """Run PPO's epochs of minibatches on the current rollout, with the method's loss and gradients added.

        Raises:
            FloatingPointError: training has diverged.
        """
        self.method.at_progress(self._progress())
        # After at_progress: PackNet prunes there and then gives retraining a schedule of its own.
        self._current_progress_remaining = self.method.schedule_remaining(self._current_progress_remaining)
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        rollout, metrics = cast(Rollout, self.rollout_buffer), list[UpdateMetrics]()
        if self._ppo.normalize_advantage == "rollout":
            rollout.normalize_advantages()
        captured = self._captured_update(rollout)
        # A captured update reads its minibatch from a fixed buffer; otherwise the rollout allocates each minibatch.
        update, into = (self._update, None) if captured is None else (captured, captured.batch)
        try:
            for _ in range(self.n_epochs):
                for batch in rollout.minibatches(self.batch_size, into):
                    # No list comprehension: after an error, the metrics of the earlier minibatches show its cause.
                    metrics.append(update(batch))
                self._n_updates += 1
        except ValueError:  # torch's distributions raise it for non-finite logits inside a method's loss
            self._check_finite(metrics)
            raise
        # Before logging and before any snapshot or checkpoint: a diverged network must not be saved over a sound one.
        self._check_finite(metrics)
        # Not before the update: its observations must be normalised as they were when actions were chosen.
        self.policy.current.normalizer.update(rollout.all_observations())
        self._log_update(metrics, rollout)

    def _captured_update(self, rollout: Rollout) -> CapturedUpdate | None:
        """Return the captured update, created on first use; None where it cannot be captured."""
        # A graph has fixed shapes: every minibatch must be full.
        whole = rollout.buffer_size * rollout.n_envs % self.batch_size == 0
        if not (self._captures and self.method.capturable and whole):
            return None
        # Python numbers become constants of the graph. The learning rate is a tensor instead, since it changes with
        # every update; clip ranges rarely have a schedule, and a new value leads to a new capture.
        fixed = (self.policy.optimizer, self.batch_size, *self._clip_ranges())
        if self._captured is None or self._captured.fixed != fixed:
            batch = rollout.empty_minibatch(self.batch_size)
            self._captured = CapturedUpdate(self._update, self.policy.optimizer, batch, fixed)
        return self._captured

    @property
    def _captures(self) -> bool:
        return self._compute.capture == "auto" and can_capture(self.device)

    def _clip_ranges(self) -> tuple[float, float | None]:
        """Clip ranges of the probability ratio and of the value (None: not clipped)."""
        left, of_values = self._current_progress_remaining, self.clip_range_vf
        return cast(Schedule, self.clip_range)(left), of_values(left) if callable(of_values) else None

    def _update(self, batch: Minibatch) -> UpdateMetrics:
        """Take one optimizer step. Metrics stay on the device: reading one would synchronise with the GPU."""
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
            # Called in every update, also under capture: a method's loss is part of the graph (see Method.capturable).
            extra = self.method.loss(self.policy.outputs_of)
            # Gradients are set to None, not to 0: under capture, backward then allocates them in the graph's memory
            # pool and overwrites them at every replay instead of adding to them.
            self.policy.optimizer.zero_grad()
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        # Method.add_gradient runs in backward hooks and Method.after_step in a hook of the optimizer (methods.attach):
        # the clipped norm includes the gradient of a penalty, and every step ends with a projection.
        norm = clipped_step(self.policy.optimizer, self.max_grad_norm)
        return UpdateMetrics(metrics, None if extra is None else extra.detach(), norm)

    def _log_update(self, metrics: list[UpdateMetrics], rollout: Rollout) -> None:
        std = self.policy.log_std if isinstance(self.action_space, spaces.Box) else None
        for name, value in means(metrics, rollout, std).items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _progress(self) -> float:
        """Fraction of the current task's steps taken so far, 0 to 1."""
        start = self._num_timesteps_at_start
        return min(1.0, (self.num_timesteps - start) / (self._total_timesteps - start))

    def _check_finite(self, updates: list[UpdateMetrics]) -> None:
        task = self.policy.current_name
        check_finite(updates, dict(self.policy.named_parameters()), f"learning {task} at step {self.num_timesteps:,}")

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Measure progress within the task: schedules restart with every task while the step count continues.

        The learning rate is that of the rollout's beginning, as in openai/baselines: taken at its end, the last update
        of every task would have a rate of 0 and be wasted.
        """
        start = self._num_timesteps_at_start
        done = num_timesteps - self.n_steps * self.n_envs - start
        self._current_progress_remaining = 1.0 - max(0, done) / (total_timesteps - start)
