"""Concatenate separate policy and value networks into one trunk that computes exactly the same outputs.

Layer by layer, the units of both networks are stacked and the weights become block-diagonal: W = [[W_π, 0], [0, W_v]].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blip_rl.sb3.read_zip import ExternalAgent, ExternalLayer
from blip_rl.untrusted.machine import check_memory


def concatenate(agent: ExternalAgent) -> tuple[list[ExternalLayer], Tensor, Tensor]:
    """Concatenate the policy and value network of an agent; leading layers that are equal are kept once.

    Returns:
        The layers, and the weights of actor and critic over all features, with zeros for those of the other network.

    Raises:
        ValueError: the networks differ in depth, or in the kernel size or stride of a layer.
        UserError: the concatenated layers need too much memory.
    """
    if [_layer_kind(layer) for layer in agent.policy] != [_layer_kind(layer) for layer in agent.value]:
        raise ValueError(
            "policy and value networks differ: expected the same number of layers, kernel sizes and strides"
        )
    shared = _shared_layers(agent)
    pairs = list(zip(agent.policy, agent.value, strict=True))[shared:]
    check_memory(
        "the concatenated policy and value network",
        {f"layer {shared + number}": _concatenated_bytes(*pair) for number, pair in enumerate(pairs, start=1)},
        "it is too large for this machine",
    )
    layers = list(agent.policy[:shared])
    for index, (policy, value) in enumerate(pairs):
        join = _block_diagonal if index else torch.cat  # both first layers get the same input
        layers.append(
            ExternalLayer(join([policy.weight, value.weight]), torch.cat([policy.bias, value.bias]), policy.stride)
        )
    if shared == len(agent.policy):
        return layers, agent.actor[0], agent.critic[0]
    rows = _block_diagonal([agent.actor[0], agent.critic[0]])
    return layers, rows[: len(agent.actor[0])], rows[len(agent.actor[0]) :]


def _concatenated_bytes(policy: ExternalLayer, value: ExternalLayer) -> int:
    outputs, inputs, *kernel = (a + b for a, b in zip(policy.weight.shape, value.weight.shape, strict=True))
    return policy.weight.element_size() * outputs * inputs * math.prod(kernel)


def _layer_kind(layer: ExternalLayer) -> tuple[int, tuple[int, ...]]:
    return layer.stride, tuple(layer.weight.shape[2:])


def _shared_layers(agent: ExternalAgent) -> int:
    """Return the number of leading layers that are equal in both networks."""
    same = [
        torch.equal(policy.weight, value.weight) and torch.equal(policy.bias, value.bias)
        for policy, value in zip(agent.policy, agent.value, strict=True)
    ]
    return (*same, False).index(False)


def _block_diagonal(weights: Sequence[Tensor]) -> Tensor:
    """Return the block-diagonal weight of two weights of shape (outputs, inputs, ...)."""
    first, second = weights
    both = first.new_zeros(len(first) + len(second), first.shape[1] + second.shape[1], *first.shape[2:])
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, first.shape[1] :] = second
    return both
