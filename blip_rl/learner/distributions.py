"""A policy asked without a look at any number: each look would wait for a GPU, and nothing that waits can be recorded.

torch's distributions check their parameters and stable-baselines3's use them so; here a bad number shows in the loss.
"""

from __future__ import annotations

from typing import cast

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import sum_independent_dims
from torch import Tensor
from torch.distributions import Categorical, Normal

from blip_rl.learner.policy import ContinualPolicy


def evaluate_actions(policy: ContinualPolicy, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What stable-baselines3's ``evaluate_actions`` computes, in its order.

    Args:
        policy: Has a task in use.
        observations: Raw, (batch, ...).
        actions: As a rollout keeps them, (batch,) or (batch, ...).

    Returns:
        V(s), log π(a|s) and entropies, each (batch,).
    """
    features = policy.extract_features(observations)
    distribution = distribution_of(policy, features)
    log_probs = _log_probs(distribution, actions.flatten(1) if actions.dim() > 2 else actions)
    values, entropy = policy.critic(features), distribution.entropy()  # type: ignore[no-untyped-call]
    return values, log_probs, sum_independent_dims(entropy) if isinstance(distribution, Normal) else entropy


@torch.no_grad()
def sample(policy: ContinualPolicy, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw actions of the task in use.

    Returns:
        Actions as the environments take them, V(s) and log π(a|s): (batch, ...), (batch,) and (batch,).
    """
    features = policy.extract_features(observations)
    distribution = distribution_of(policy, features)
    if isinstance(distribution, Normal):
        actions = distribution.rsample()
    else:
        # Of clocks that run at the actions' probabilities, the first to ring: torch.multinomial would look at them.
        actions = (distribution.probs / torch.empty_like(distribution.probs).exponential_()).argmax(1)
    shaped = actions.reshape(-1, *cast(tuple[int, ...], policy.action_space.shape))
    return shaped, policy.critic(features), _log_probs(distribution, actions)


def distribution_of(policy: ContinualPolicy, features: Tensor) -> Categorical | Normal:
    """The distribution over actions of the task in use, (batch,) of them."""
    outputs = policy.action_net(features)
    if isinstance(policy.action_space, spaces.Discrete):
        return Categorical(logits=outputs, validate_args=False)
    return Normal(outputs, torch.ones_like(outputs) * policy.log_std.exp(), validate_args=False)


def _log_probs(distribution: Categorical | Normal, actions: Tensor) -> Tensor:
    """Log π(a|s), (batch,)."""
    log_probs: Tensor = distribution.log_prob(actions)  # type: ignore[no-untyped-call]
    return sum_independent_dims(log_probs) if isinstance(distribution, Normal) else log_probs
