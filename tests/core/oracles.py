"""The Fisher information the slow way: one forward and one backward pass for every sample and action."""

import torch
from torch.distributions import Categorical, Independent, Normal


def as_distribution(policy):
    return Categorical(logits=policy) if isinstance(policy, torch.Tensor) else policy


def log_probability(policy, action):
    """log π(a|s) of a batch of one."""
    policy = as_distribution(policy)
    if isinstance(policy, Normal):
        policy = Independent(policy, 1)
    return policy.log_prob(action).sum()


def squared_gradients(trunk, head, observation, action, reverse_logits=False):
    """(∂ log π(a|s) / ∂θ)² of one sample, by parameter name; EWC-DR: of the policy with the opposite logits."""
    named = dict(trunk.named_parameters())
    policy = head(trunk(observation[None]))
    value = log_probability(-policy if reverse_logits else policy, action[None])
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.square()
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
    }


def weighted_sum(parts):
    """Σ weight · squares over (weight, squares by name)."""
    total = None
    for weight, squares in parts:
        scaled = {name: weight * value for name, value in squares.items()}
        total = scaled if total is None else {name: total[name] + scaled[name] for name in total}
    return total


def fisher_of_actions(trunk, head, observations, actions):
    """The mean over samples, for actions given."""
    share = 1 / len(observations)
    pairs = zip(observations, actions, strict=True)
    return weighted_sum((share, squared_gradients(trunk, head, s, a)) for s, a in pairs)


def fisher_enumerated(trunk, head, observations, reverse_logits=False):
    """The mean over samples, all actions weighted with their probabilities."""
    share = 1 / len(observations)
    parts = []
    for s in observations:
        with torch.no_grad():
            probabilities = as_distribution(head(trunk(s[None]))).probs[0]
        for action, probability in enumerate(probabilities):
            parts.append((share * probability, squared_gradients(trunk, head, s, torch.tensor(action), reverse_logits)))
    return weighted_sum(parts)
