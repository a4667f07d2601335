"""stable-baselines3's PPO, extended to learn a sequence of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.agent_config import AgentConfig, PpoConfig
from blip_rl.config import ComputeConfig, NormalizationConfig
from blip_rl.learner.base_ppo import BasePPO
from blip_rl.learner.normalization import RewardNormalizer
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.precision import disable_tf32
from blip_rl.learner.rollout import Rollout
from blip_rl.learner.trunk import check_observations
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask, Method


class ContinualPPO(BasePPO):
    """PPO with a task in use: its head, its environments, and the method that protects earlier tasks."""

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
        normalization: NormalizationConfig | None = None,
    ) -> None:
        """Build the agent for its first task, or for a later one when ``known_tasks`` are given.

        Args:
            config: How to learn.
            task: Name of the task to learn.
            env: Its environments.
            seed: Seed of all random generators.
            device: Torch device.
            known_tasks: Names and action spaces of tasks whose heads are added first, in order.
            compute: Precision, capture and compilation; None for the defaults.
            normalization: What is normalised with running statistics; None: nothing.
        """
        compute = compute or ComputeConfig()
        self._learning_rate_start = config.ppo.learning_rate
        super().__init__(
            ContinualPolicy,
            env,
            ppo=config.ppo,
            compute=compute,
            **stable_baselines_hyperparameters(config.ppo),
            policy_kwargs={
                "trunk": config.trunk,
                "normalization": normalization,
                "optimizer_kwargs": {"eps": config.ppo.adam_epsilon},
                "precision": compute.precision,
                "compiled": compute.compile,
            },
            seed=seed,
            device=device,
            rollout_buffer_class=cast(Any, Rollout),
        )
        disable_tf32(self.device)
        for name, action_space in known_tasks:
            self.policy.add_task(name, action_space)
        first = known_tasks[0][0] if known_tasks else task
        self._first_task, self._first_observations = first, self.observation_space
        self.switch_task(task, env)

    def switch_task(self, task: str, env: VecEnv) -> None:
        """Switch to a task: its head (added if new), its environments and a new optimizer.

        Raises:
            UserError: the task's observations do not fit the trunk.
        """
        env = self._wrap_env(env, self.verbose)  # transposes images with channels last
        check_observations(task, env.observation_space, self._first_task, self._first_observations)
        if task not in self.policy.task_names:
            self.policy.add_task(task, env.action_space)
        self.policy.use_task(task)
        self.discard_captures()
        self.task_began_at = self.num_timesteps
        self.policy.new_optimizer(self._learning_rate_start)
        # Bounds of spaces may differ between tasks; set_env would reject that, so the spaces are set first.
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.set_env(env, force_reset=True)
        self._rewards = RewardNormalizer(self.policy.current.normalizer.returns, self.gamma, self.n_envs)
        self.ep_info_buffer = None  # otherwise the task's first averages would include the previous task
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
        """Learn the task in use until it has had ``steps`` steps.

        Args:
            steps: Length of the task in environment steps, including those already taken.
            callback: Called by stable-baselines3's ``learn``.
            began_at: Step count of the run when the task began, to resume it; None: it begins now.
        """
        self.task_began_at = self.num_timesteps if began_at is None else began_at
        self.learn(self.task_began_at + steps - self.num_timesteps, callback, reset_num_timesteps=False)

    def _setup_learn(self, total_timesteps: int, *args: Any, **options: Any) -> tuple[int, BaseCallback]:
        """Let schedules count from the task's first step, also when it is resumed in the middle."""
        result = super()._setup_learn(total_timesteps, *args, **options)
        # stable-baselines3 takes the current count as the start. Of a resumed task that is its middle: learning rates
        # would restart there. Several tasks learned in turn start at the first one's beginning.
        self._num_timesteps_at_start = min(self.task_began_at, self._num_timesteps_at_start)
        return result

    def dump_logs(self, iteration: int = 0) -> None:
        """Log the newest episodes' means under tags of the task in use, instead of stable-baselines3's.

        Its ``rollout/ep_rew_mean`` and ``rollout/ep_len_mean`` would join all tasks to one curve, and its ``time/fps``
        divides all steps of a resumed task by the time of this process.
        """
        task, episodes = self.policy.current_name, self.ep_info_buffer
        if episodes:
            self.logger.record(f"rollout/{task}/ep_rew_mean", safe_mean([info["r"] for info in episodes]))
            self.logger.record(f"rollout/{task}/ep_len_mean", safe_mean([info["l"] for info in episodes]))
        self.logger.dump(self.num_timesteps)

    def just_passed(self, every_steps: int) -> bool:
        """Return whether the last rollout passed a multiple of ``every_steps`` of the task; call it between updates."""
        done = self.num_timesteps - self.task_began_at
        return done // every_steps > max(0, done - self.n_steps * self.n_envs) // every_steps

    def restart_games(self, seed: int) -> None:
        """Restart all games from a seed, so that a resumed run can replay them from here."""
        env = cast(VecEnv, self.env)
        env.seed(seed)
        self._last_obs = cast(np.ndarray, env.reset())
        self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
        self._rewards.restart()

    def replay_games(self, seed: int, actions: np.ndarray) -> None:
        """Replay the environments from a seed and an action log to their saved state.

        Args:
            seed: Seed of the first environment.
            actions: (steps, environments, ...), as :meth:`RecordedVecEnv.action_log` returned them.
        """
        self.restart_games(seed)
        env = cast(VecEnv, self.env)
        # Logged indices are bytes; environments take the int64 that the policy gives them.
        for step in actions:
            observations, rewards, dones, _ = env.step(step.astype(np.int64) if step.dtype.kind == "u" else step)
            self._rewards.follow(rewards, dones)
            self._last_obs, self._last_episode_starts = cast(np.ndarray, observations), dones

    @contextmanager
    def protected_by(self, method: Method, *, resume: bool = False) -> Iterator[None]:
        """Attach a method for the block; it is detached again, also after an error.

        Args:
            method: Protects earlier tasks.
            resume: Whether the task in use is resumed in the middle instead of started.
        """
        with attached(
            method, self.policy.protected, self.policy.optimizer, task=self.policy.current_number, resume=resume
        ):
            self.method = method
            # The method's hooks are part of a captured update, and so are the tensors that they read.
            self.discard_captures()
            try:
                yield
            finally:
                self.method = Method()
                self.discard_captures()

    def finished_task(self, samples: int, generator: torch.Generator) -> FinishedTask:
        """Return the task in use as :meth:`Method.end_task` takes it, with observations from fresh rollouts."""
        return FinishedTask(
            trunk=self.policy.protected,
            head=self.policy.protected_head,
            observations=self.play(samples),
            preprocess=self.policy.preprocess,
            generator=generator,
            values=self.policy.values_of,
        )

    def play(self, samples: int) -> Tensor:
        """Collect observations with the stochastic policy, without learning or counting the steps.

        Returns:
            (samples, *observation shape), on the CPU.
        """
        env = cast(VecEnv, self.env)
        observations = cast(np.ndarray, self._last_obs)
        if not samples:
            return torch.empty((0, *observations.shape[1:]))
        # Preallocated: concatenating hundreds of megabytes would hold them twice, and the heap keeps much of it.
        kept = np.empty((samples, *observations.shape[1:]), dtype=observations.dtype)
        for first in range(0, samples, env.num_envs):
            kept[first : first + env.num_envs] = observations[: samples - first]
            result: Any = env.step(self.policy.act(observations, greedy=False))
            observations = result[0]
        self._last_obs = observations
        return torch.from_numpy(kept)


def stable_baselines_hyperparameters(ppo: PpoConfig) -> dict[str, Any]:
    """Return the keyword arguments of stable-baselines3's ``PPO``.

    ``value_loss = "max"`` and ``normalize_advantage = "rollout"`` have no equivalent there and are left out.
    """
    linear = ppo.learning_rate_schedule == "linear"
    return {
        "learning_rate": (lambda left: left * ppo.learning_rate) if linear else ppo.learning_rate,
        "n_steps": ppo.rollout_steps,
        "batch_size": ppo.rollout_steps * ppo.environments // ppo.minibatches,
        "n_epochs": ppo.epochs,
        "gamma": ppo.discount,
        "gae_lambda": ppo.gae_lambda,
        "clip_range": ppo.clip_range,
        "clip_range_vf": ppo.clip_range_value,
        "ent_coef": ppo.entropy_coefficient,
        "vf_coef": ppo.value_coefficient * ppo.value_loss_scale,
        "max_grad_norm": ppo.max_gradient_norm,
    }
