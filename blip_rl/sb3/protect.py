"""Apply a continual learning method to a plain stable-baselines3 PPO or A2C model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from blip_rl.methods.base import FinishedTask, Method, attached
from blip_rl.module_guard import missing_hook


class ActorPath(nn.Module):
    """All layers between the observation and the actions of a policy: the part that is protected.

    A plain model has a single head for all tasks, so the action layer is protected too. The layers of the critic are
    not protected: changes to them do not change the actions.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.features_extractor = policy.pi_features_extractor
        self.policy_net = policy.mlp_extractor.policy_net
        self.action_net = policy.action_net

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, ...) preprocessed observations → (batch, outputs) of the action layer."""
        return cast(Tensor, self.action_net(self.policy_net(self.features_extractor(observations))))


@contextmanager
def protect(model: OnPolicyAlgorithm, method: Method, seed: int = 0) -> Iterator[Method]:
    """Context manager that protects earlier tasks while the model learns one task.

    Attaches the method on entry, consolidates it when the block ends without an exception, and always detaches it.

    Args:
        model: A stable-baselines3 PPO (or A2C) with a discrete or a Gaussian policy; call ``learn`` inside.
        method: The method; pass the same object for every task of the sequence.
        seed: Seed for the choice of observations and the random numbers of the method.

    Raises:
        RuntimeError: ``model.learn`` was not called in the block, so there is no rollout to consolidate on.
        TypeError: the method or the policy is not supported.
    """
    if hook := missing_hook(method):
        raise TypeError(
            f"{type(method).__name__} needs the hook {hook!r}, which stable-baselines3 does not call: "
            "expected a method with gradient and step hooks only, such as blip, ewc or gpm (or use blip-rl train)"
        )
    policy = model.policy
    if not isinstance(policy.action_dist, CategoricalDistribution | DiagGaussianDistribution):
        raise TypeError(
            f"unsupported action distribution {type(policy.action_dist).__name__}: "
            "expected Discrete or Box actions without use_sde"
        )
    trunk = ActorPath(policy)
    model.rollout_buffer.reset()  # discard the rollout of an earlier task
    with attached(method, trunk, policy.optimizer):
        yield method
        observations = _rollout_observations(model.rollout_buffer, method.samples_wanted, seed)
        method.end_task(
            FinishedTask(
                trunk=trunk,
                head=_head(policy),
                observations=observations,
                preprocess=_preprocess(policy),
                generator=torch.Generator().manual_seed(seed),
            )
        )


def _rollout_observations(buffer: RolloutBuffer, samples: int, seed: int) -> Tensor:
    """Draw at most ``samples`` observations from the last rollout; returns shape (samples, *observation)."""
    if buffer.size() == 0:
        raise RuntimeError("the rollout buffer is empty: call model.learn(...) inside the with block")
    # A callback may have stopped training during a rollout: use the part that was collected.
    collected = buffer.observations if buffer.full else buffer.observations[: buffer.pos]
    observations = torch.from_numpy(collected).reshape(-1, *buffer.obs_shape)
    if len(observations) <= samples:
        return observations
    chosen = torch.randperm(len(observations), generator=torch.Generator().manual_seed(seed))[:samples]
    return observations[chosen]


def _head(policy: ActorCriticPolicy) -> Callable[[Tensor], Any]:
    """Return a function: outputs of the action layer → torch distribution over actions."""

    def distribution(outputs: Tensor) -> Any:
        if hasattr(policy, "log_std"):
            return policy.action_dist.proba_distribution(outputs, policy.log_std).distribution
        return policy.action_dist.proba_distribution(outputs).distribution

    return distribution


def _preprocess(policy: ActorCriticPolicy) -> Callable[[Tensor], Tensor]:
    return lambda observations: cast(
        Tensor, preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
    )
