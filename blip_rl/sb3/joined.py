"""Two networks side by side as one: how separate policy and value networks become one shared trunk, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blip_rl.sb3.read_zip import ForeignAgent, ForeignLayer
from blip_rl.untrusted.machine import check_memory


def joined(agent: ForeignAgent) -> tuple[list[ForeignLayer], Tensor, Tensor]:
    """Lay the two networks side by side; layers that they share stay one.

    Returns:
        The layers, and the weights of actor and critic over all features: each sees the other's through zeros.

    Raises:
        ValueError: the networks differ in depth, or in the kernels or strides of a layer.
        UserError: the layers side by side need more memory than there is.
    """
    if [_kind(layer) for layer in agent.policy] != [_kind(layer) for layer in agent.value]:
        raise ValueError(
            "policy and values have networks of different depth or kind: expected as many layers of the same kernels"
        )
    shared = _shared(agent)
    pairs = list(zip(agent.policy, agent.value, strict=True))[shared:]
    check_memory(
        "the run's network, policy and values side by side,",
        {f"layer {shared + number}": _joined_bytes(*pair) for number, pair in enumerate(pairs, start=1)},
        "it is too large for this machine",
    )
    layers = list(agent.policy[:shared])
    for index, (policy, value) in enumerate(pairs):
        join = _diagonal if index else torch.cat  # the first two see the same features
        layers.append(
            ForeignLayer(join([policy.weight, value.weight]), torch.cat([policy.bias, value.bias]), policy.stride)
        )
    if shared == len(agent.policy):
        return layers, agent.actor[0], agent.critic[0]
    rows = _diagonal([agent.actor[0], agent.critic[0]])
    return layers, rows[: len(agent.actor[0])], rows[len(agent.actor[0]) :]


def _joined_bytes(policy: ForeignLayer, value: ForeignLayer) -> int:
    outputs, inputs, *kernel = (a + b for a, b in zip(policy.weight.shape, value.weight.shape, strict=True))
    return policy.weight.element_size() * outputs * inputs * math.prod(kernel)


def _kind(layer: ForeignLayer) -> tuple[int, tuple[int, ...]]:
    return layer.stride, tuple(layer.weight.shape[2:])


def _shared(agent: ForeignAgent) -> int:
    """How many layers from the observations on are the same in both networks."""
    same = [
        torch.equal(policy.weight, value.weight) and torch.equal(policy.bias, value.bias)
        for policy, value in zip(agent.policy, agent.value, strict=True)
    ]
    return (*same, False).index(False)


def _diagonal(weights: Sequence[Tensor]) -> Tensor:
    """Weights (outputs, inputs, ...) → one whose blocks they are, with zeros elsewhere."""
    first, second = weights
    both = first.new_zeros(len(first) + len(second), first.shape[1] + second.shape[1], *first.shape[2:])
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, first.shape[1] :] = second
    return both
