"""Copy, set and temporarily exchange a module's parameters.

Parameters are written in place, never replaced: optimizers, hooks and CUDA graphs hold references to the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters by name, detached, on their device and in their memory layout."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@torch.no_grad()
def set_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors of the same shapes, from any device, into all parameters."""
    for name, parameter in module.named_parameters():
        parameter.copy_(weights[name])


@contextmanager
def exchanged_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the module other weights within the block; afterwards its own are restored bit-exactly."""
    own = copy_weights(module)
    set_weights(module, weights)
    try:
        yield
    finally:
        set_weights(module, own)
