"""Join two networks into one that computes the same outputs: units are stacked, weights are block-diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blip_rl.untrusted.machine import check_memory


@dataclass(frozen=True)
class ExternalLayer:
    """A layer that is followed by an activation; ``stride`` is 0 for a fully connected layer."""

    weight: Tensor
    bias: Tensor
    stride: int = 0


def concatenate(
    policy: Sequence[ExternalLayer], value: Sequence[ExternalLayer], actor: Tensor, critic: Tensor
) -> tuple[list[ExternalLayer], Tensor, Tensor]:
    """Concatenate policy and value network; leading layers that are equal are kept once.

    Returns:
        The layers, and the weights of actor and critic over all features, with zeros for those of the other network.

    Raises:
        ValueError: A network has no layers, or they differ in more than their number of units.
        UserError: The result does not fit into memory.
    """
    if not policy or not value:
        raise ValueError("it has no layers between observations and actions")
    pairs = list(zip(policy, value, strict=False))
    if len(policy) != len(value) or any(
        ours.stride != theirs.stride or ours.weight.shape[2:] != theirs.weight.shape[2:] for ours, theirs in pairs
    ):
        raise ValueError(
            "policy and value networks differ: expected the same number of layers, kernel sizes and strides"
        )
    equal = [torch.equal(p.weight, v.weight) and torch.equal(p.bias, v.bias) for p, v in pairs]
    shared = (*equal, False).index(False)
    check_memory(
        "the concatenated policy and value network",
        {f"layer {number + 1}": _concatenated_bytes(*pairs[number]) for number in range(shared, len(pairs))},
        "it is too large for this machine",
    )
    layers = list(policy[:shared])
    for number, (ours, theirs) in enumerate(pairs[shared:]):
        join = _block_diagonal if number else torch.cat  # both first layers get the same input
        layers.append(
            ExternalLayer(join([ours.weight, theirs.weight]), torch.cat([ours.bias, theirs.bias]), ours.stride)
        )
    if shared == len(pairs):
        return layers, actor, critic
    rows = _block_diagonal([actor, critic])
    return layers, rows[: len(actor)], rows[len(actor) :]


def _concatenated_bytes(policy: ExternalLayer, value: ExternalLayer) -> int:
    outputs, inputs, *kernel = (a + b for a, b in zip(policy.weight.shape, value.weight.shape, strict=True))
    return policy.weight.element_size() * outputs * inputs * math.prod(kernel)


def _block_diagonal(weights: Sequence[Tensor]) -> Tensor:
    """Return the block-diagonal weight of two weights of shape (outputs, inputs, ...)."""
    first, second = weights
    both = first.new_zeros(len(first) + len(second), first.shape[1] + second.shape[1], *first.shape[2:])
    both[: len(first), : first.shape[1]] = first
    both[len(first) :, first.shape[1] :] = second
    return both
