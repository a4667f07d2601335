"""Action distributions without host synchronisation, so that they can be captured as CUDA graphs.

torch's distributions validate their parameters by default, which copies a flag from the GPU at every use, and
stable-baselines3 uses them so. Here validation is off; ``check_finite`` finds non-finite values once an update.
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
    """Compute what stable-baselines3's ``ActorCriticPolicy.evaluate_actions`` computes, in the same order.

    Args:
        policy: Has a task in use.
        observations: Raw, (batch, ...).
        actions: As stored in a rollout, (batch,) or (batch, ...).

    Returns:
        V(s), log π(a|s) and entropies, each (batch,).
    """
    features = policy.extract_features(observations)
    distribution = distribution_of(policy, features)
    if isinstance(distribution, Normal):
        actions = actions.reshape(len(actions), -1)  # one row for each state, whatever the shape of the space
    log_probs = _log_probs(distribution, actions)
    values, entropy = policy.critic(features), distribution.entropy()  # type: ignore[no-untyped-call]
    return values, log_probs, sum_independent_dims(entropy) if isinstance(distribution, Normal) else entropy


@torch.no_grad()
def sample(policy: ContinualPolicy, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sample actions for the task in use.

    Returns:
        Actions as the environments take them, V(s) and log π(a|s): (batch, ...), (batch,) and (batch,).
    """
    features = policy.extract_features(observations)
    distribution = distribution_of(policy, features)
    if isinstance(distribution, Normal):
        actions = distribution.rsample()  # one normal draw for each action, as in stable-baselines3
    else:
        # Exponential-race sampling (equivalent to Gumbel-max): with Eₐ ~ Exp(1), argmaxₐ pₐ/Eₐ = a with probability pₐ.
        # It avoids the device synchronisation of torch.multinomial, which checks its probabilities on the host.
        actions = (distribution.probs / torch.empty_like(distribution.probs).exponential_()).argmax(1)
    shaped = actions.reshape(-1, *cast(tuple[int, ...], policy.action_space.shape))
    return shaped, policy.critic(features), _log_probs(distribution, actions)


def distribution_of(policy: ContinualPolicy, features: Tensor) -> Categorical | Normal:
    """Return the action distribution of the task in use, batch shape (batch,)."""
    outputs = policy.action_net(features)
    if isinstance(policy.action_space, spaces.Discrete):
        return Categorical(logits=outputs, validate_args=False)
    return Normal(outputs, torch.ones_like(outputs) * policy.log_std.exp(), validate_args=False)


def _log_probs(distribution: Categorical | Normal, actions: Tensor) -> Tensor:
    """Log π(a|s), (batch,)."""
    log_probs: Tensor = distribution.log_prob(actions)  # type: ignore[no-untyped-call]
    return sum_independent_dims(log_probs) if isinstance(distribution, Normal) else log_probs
