"""Distributions over actions as the tensors that describe them, to be stored and compared.

A policy is Categorical (``logits``) or Normal with independent dimensions (``loc`` and ``scale``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, kl_divergence

KINDS: dict[frozenset[str], type[Distribution]] = {
    frozenset({"logits"}): Categorical,
    frozenset({"loc", "scale"}): Normal,
}
"""Names of the tensors → the distribution that they describe."""


def policy_tensors(policy: Any) -> dict[str, Tensor]:
    """What describes a distribution over actions; a plain tensor is taken as logits.

    Raises:
        TypeError: it is neither Categorical nor Normal.
    """
    if isinstance(policy, Tensor):
        policy = Categorical(logits=policy)
    if isinstance(policy, Categorical):
        return {"logits": policy.logits}
    if isinstance(policy, Normal):
        return {"loc": policy.loc, "scale": policy.scale}
    raise TypeError(f"a policy of {type(policy).__name__}: expected a Categorical or a Normal one")


def policy_of(tensors: Mapping[str, Tensor]) -> Distribution:
    """The distribution that :func:`policy_tensors` described."""
    # Validation would look at every entry of every minibatch, and wait for a GPU.
    return KINDS[frozenset(tensors)](**tensors, validate_args=False)  # type: ignore[arg-type]


def divergence(policy: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    """KL(policy ‖ other) of every state in nats, shape (states,): the sum over independent action dimensions.

    Args:
        policy: Its tensors, one row for each state.
        other: The same of the other policy.
    """
    states = len(next(iter(policy.values())))
    return kl_divergence(policy_of(policy), policy_of(other)).reshape(states, -1).sum(1)
