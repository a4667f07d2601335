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
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.config import AgentConfig, ComputeConfig
from blip_rl.learner.captured import CapturedUpdate
from blip_rl.learner.diverged import check_finite
from blip_rl.learner.figures import UpdateFigures, means
from blip_rl.learner.lanes import Lanes
from blip_rl.learner.loss import ppo_loss
from blip_rl.learner.numbers import stable_baselines_numbers
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.precision import be_exact
from blip_rl.learner.recording import can_record
from blip_rl.learner.rollout import Minibatch, Rollout
from blip_rl.learner.trunk import check_observations
from blip_rl.learner.unchecked import judge
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
        compute: ComputeConfig | None = None,
    ) -> None:
        """Build the agent around its first task, or around any task once others are known to it.

        Args:
            config: How to learn.
            task: Name of the task to learn.
            env: Its environments.
            seed: Of every random draw.
            device: Where the network is.
            known_tasks: Names and action spaces of tasks that get a head first, in their order.
            compute: How the device is used; None for the defaults.
        """
        self.method = Method()
        self._compute = compute or ComputeConfig()
        self._lanes: Lanes | None = None
        self._captured: CapturedUpdate | None = None
        self._learning_rate_start = config.ppo.learning_rate
        super().__init__(
            ContinualPolicy,
            env,
            **stable_baselines_numbers(config.ppo),
            policy_kwargs={
                "trunk": config.trunk,
                "optimizer_kwargs": {"eps": config.ppo.adam_epsilon},
                "precision": self._compute.precision,
                "compiled": self._compute.compile,
            },
            seed=seed,
            device=device,
            rollout_buffer_class=cast(Any, Rollout),
        )
        be_exact(self.device)
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
        self.forget_recordings()
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
            self.forget_recordings()
            try:
                yield
            finally:
                self.method = Method()
                self.forget_recordings()

    def forget_recordings(self) -> None:
        """Record inference and update anew when they are next needed: tensors that they use are no longer the same."""
        self._lanes, self._captured = None, None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play ``n_rollout_steps`` in every environment with the current policy, as stable-baselines3 does it.

        Returns:
            False if a callback asked to stop.
        """
        rollout, lanes = cast(Rollout, rollout_buffer), self._lanes_of(env)
        self.policy.set_training_mode(False)
        rollout.reset()
        callback.on_rollout_start()  # may restart the games
        dones = cast(np.ndarray, self._last_episode_starts)
        with self.policy.precisely():
            for rewards, dones, infos in lanes.play(rollout, cast(np.ndarray, self._last_obs)):
                self.num_timesteps += env.num_envs
                callback.update_locals(locals())
                if not callback.on_step():
                    lanes.leave(rollout)
                    self._last_obs = lanes.observations
                    return False
                self._update_info_buffer(infos, dones)
                self._bootstrap_truncated(rewards, dones, infos)
                rollout.add(rewards, cast(np.ndarray, self._last_episode_starts))
                self._last_episode_starts = dones
            self._last_obs = lanes.observations
            rollout.finish(self._values(self._last_obs), dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _lanes_of(self, env: VecEnv) -> Lanes:
        if self._lanes is None or self._lanes.env is not env:
            self._lanes = Lanes(env, self.policy, record=self._records)
        return self._lanes

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
        captured = self._captured_update(rollout)
        update, into = (self._update, None) if captured is None else (captured, captured.batch)
        try:
            for _ in range(self.n_epochs):
                for batch in rollout.minibatches(self.batch_size, into):
                    figures.append(update(batch))  # one by one: those before an error tell its cause
                self._n_updates += 1
        except ValueError:  # what torch's distributions say, in a method's loss, of logits that are not numbers
            self._check_finite(figures)
            raise
        self._check_finite(figures)
        self._log_update(figures, rollout)

    def _captured_update(self, rollout: Rollout) -> CapturedUpdate | None:
        """The update as one recorded piece, made when it is first needed; None where it cannot be one."""
        whole = rollout.buffer_size * rollout.n_envs % self.batch_size == 0
        if not (self._records and self.method.capturable and whole):
            return None
        fixed = (self.policy.optimizer, self.batch_size, *self._clip_ranges())
        if self._captured is None or self._captured.fixed != fixed:
            batch = rollout.empty_minibatch(self.batch_size)
            self._captured = CapturedUpdate(self._update, self.policy.optimizer, batch, fixed)
        return self._captured

    @property
    def _records(self) -> bool:
        return self._compute.capture == "auto" and can_record(self.device)

    def _clip_ranges(self) -> tuple[float, float | None]:
        """Of the ratio, and of the values where theirs is limited."""
        left, of_values = self._current_progress_remaining, self.clip_range_vf
        return cast(Schedule, self.clip_range)(left), of_values(left) if callable(of_values) else None

    def _update(self, batch: Minibatch) -> UpdateFigures:
        """One optimizer step; no figure is looked at here, which would wait for a GPU."""
        clip_range, clip_range_value = self._clip_ranges()
        with self.policy.precisely():
            values, log_probs, entropy = judge(self.policy, batch.observations, batch.actions)
            loss, figures = ppo_loss(
                log_probs,
                entropy,
                values,
                batch,
                clip_range=clip_range,
                clip_range_value=clip_range_value,
                entropy_coefficient=self.ent_coef,
                value_coefficient=self.vf_coef,
            )
            extra = self.method.loss(self.policy.outputs_of)
            self.policy.optimizer.zero_grad()
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        norm = self.policy.step(self.max_grad_norm)
        return UpdateFigures(figures, None if extra is None else extra.detach(), norm)

    def _log_update(self, figures: list[UpdateFigures], rollout: Rollout) -> None:
        std = self.policy.log_std if isinstance(self.action_space, spaces.Box) else None
        for name, value in means(figures, rollout, std).items():
            self.logger.record(f"train/{name}", value)
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
        observations = cast(np.ndarray, self._last_obs)
        if not samples:
            return torch.empty((0, *observations.shape[1:]))
        # One block: hundreds of megabytes in pieces would be there twice, and their memory hardly comes back.
        kept = np.empty((samples, *observations.shape[1:]), dtype=observations.dtype)
        for first in range(0, samples, env.num_envs):
            kept[first : first + env.num_envs] = observations[: samples - first]
            result: Any = env.step(self.policy.act(observations, greedy=False))
            observations = result[0]
        self._last_obs = observations
        return torch.from_numpy(kept)
