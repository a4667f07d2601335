"""stable-baselines3's PPO, extended to learn one task after another on the same agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from blip_rl.config import AgentConfig, ComputeConfig, PpoConfig
from blip_rl.learner.base_ppo import BasePPO
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.precision import disable_tf32
from blip_rl.learner.rollout import Rollout
from blip_rl.learner.trunk import check_observations
from blip_rl.methods.base import FinishedTask, Method, attached


class ContinualPPO(BasePPO):
    """PPO with a current task: its head, its environments, its games, and what protects the tasks before it."""

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
        """Learn this task next: its own head (new if the task is), its environments and a fresh optimizer.

        Raises:
            UserError: the task's observations do not fit the trunk.
        """
        env = self._wrap_env(env, self.verbose)  # frames with their channels last are transposed
        check_observations(task, env.observation_space, self._first_task, self._first_observations)
        if task not in self.policy.task_names:
            self.policy.add_task(task, env.action_space)
        self.policy.use_task(task)
        self.discard_captures()
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
            self.discard_captures()
            try:
                yield
            finally:
                self.method = Method()
                self.discard_captures()

    def finished_task(self, samples: int, generator: torch.Generator) -> FinishedTask:
        """The task in use as a method sees it at its end, with observations from fresh rollouts."""
        return FinishedTask(
            trunk=self.policy.trunk,
            head=self.policy.head,
            observations=self.play(samples),
            preprocess=self.policy.preprocess,
            generator=generator,
            critic=self.policy.critic,
        )

    def play(self, samples: int) -> Tensor:
        """Play on with the stochastic policy and keep the observations: (samples, *observation shape), on the CPU.

        The steps are not counted, and nothing is learned from them.
        """
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


def stable_baselines_hyperparameters(ppo: PpoConfig) -> dict[str, Any]:
    """Return the keyword arguments of stable-baselines3's ``PPO``.

    It has no equivalent of ``value_loss = "max"`` and ``normalize_advantage = "rollout"``; they are left out.
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
