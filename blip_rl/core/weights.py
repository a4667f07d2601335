"""A module's parameters as plain tensors: copied, set in place, exchanged for a while.

Parameters are never replaced, only written to: optimizers, hooks and CUDA graphs hold on to the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters by name, without gradients, on their device and in their memory layout."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@torch.no_grad()
def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write a tensor of the same shape, from any device, into every parameter."""
    for name, parameter in module.named_parameters():
        parameter.copy_(weights[name])


@contextmanager
def exchanged_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """A block in which the module has other weights; afterwards it has its own again, to the bit."""
    own = copy_weights(module)
    set_weights(module, weights)
    try:
        yield
    finally:
        set_weights(module, own)
