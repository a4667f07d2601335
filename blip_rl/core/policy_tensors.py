"""Action distributions as tensors of their parameters, to be stored and compared.

A policy is Categorical (``logits``) or Normal with independent dimensions (``loc`` and ``scale``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, kl_divergence

KINDS: dict[frozenset[str], type[Distribution]] = {
    frozenset({"logits"}): Categorical,
    frozenset({"loc", "scale"}): Normal,
}
"""Names of the parameters → distribution."""


def policy_tensors(policy: Any) -> dict[str, Float[Tensor, "states parameters"]]:
    """Return the parameters of an action distribution; a plain tensor is taken as logits.

    Raises:
        TypeError: the distribution is neither Categorical nor Normal.
    """
    if isinstance(policy, Tensor):
        policy = Categorical(logits=policy)
    if isinstance(policy, Categorical):
        return {"logits": policy.logits}
    if isinstance(policy, Normal):
        return {"loc": policy.loc, "scale": policy.scale}
    raise TypeError(f"a policy of {type(policy).__name__}: expected a Categorical or a Normal one")


def policy_of(tensors: Mapping[str, Float[Tensor, "states parameters"]]) -> Distribution:
    """Build the distribution from the result of :func:`policy_tensors`."""
    # Validation reads a flag from the device, which synchronises with a GPU at every minibatch.
    return KINDS[frozenset(tensors)](**tensors, validate_args=False)  # type: ignore[arg-type]


def divergence(
    policy: Mapping[str, Float[Tensor, "states parameters"]], other: Mapping[str, Float[Tensor, "states parameters"]]
) -> Float[Tensor, " states"]:
    """Compute KL(policy ‖ other) in nats for every state, summed over independent action dimensions.

    Args:
        policy: Parameters of the first policy.
        other: Parameters of the second.
    """
    states = len(next(iter(policy.values())))
    if "logits" in policy:
        # From log-probabilities: torch's is infinite where a probability of the second is 0 in float32.
        first, second = (tensors["logits"].log_softmax(-1) for tensors in (policy, other))
        return (first.exp() * (first - second)).reshape(states, -1).sum(1)
    return kl_divergence(policy_of(policy), policy_of(other)).reshape(states, -1).sum(1)
