"""Naming and validation of per-parameter tensors in a method's saved state.

A method keeps one or several kinds of tensor, each kind a dictionary by parameter name. A saved state is one flat
dictionary with keys ``<parameter>.<kind>``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorLayout:
    """Dtype and largest shape that a tensor of a saved state may have.

    Attributes:
        dtype: Its dtype.
        shape: Its shape; for the axes in ``bounded``, the largest size.
        bounded: Axes whose size may also be smaller.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    bounded: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the largest such tensor."""
        return self.dtype.itemsize * math.prod(self.shape)

    def allows(self, dtype: torch.dtype | None, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this dtype and shape fits."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(
                size == most or (axis in self.bounded and size < most)
                for axis, (size, most) in enumerate(zip(shape, self.shape, strict=True))
            )
        )


def layouts(parameters: Mapping[str, Tensor], **kinds: torch.dtype) -> dict[str, TensorLayout]:
    """Return the layouts of one tensor of each kind for each parameter, of the parameter's shape.

    Args:
        parameters: By name; they may be on the meta device.
        kinds: Kind → dtype: ``layouts(parameters, fisher=torch.float32)`` is for tensors ``<parameter>.fisher``.
    """
    return {
        f"{name}.{kind}": TensorLayout(dtype, tuple(parameter.shape))
        for name, parameter in parameters.items()
        for kind, dtype in kinds.items()
    }


def named(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Copy one kind of tensor, with keys of the saved state."""
    return {f"{name}.{kind}": tensor.clone() for name, tensor in tensors.items()}


def split(saved: Mapping[str, Tensor], *kinds: str) -> list[dict[str, Tensor]]:
    """Split a saved state by kind, inverting :func:`named`; nothing is copied.

    Raises:
        ValueError: a tensor is of none of these kinds.
    """
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for key, tensor in saved.items():
        name, _, kind = key.rpartition(".")
        if kind not in found:
            raise ValueError(f"state for {key!r}, expected only {', '.join(kinds)}: it belongs to another method")
        found[kind][name] = tensor
    return list(found.values())


def check_names(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], saved_as: str) -> None:
    """Check that there is exactly one tensor for each parameter.

    Args:
        tensors: Tensors by parameter name.
        parameters: Parameters of the network.
        saved_as: Key in the saved state, with ``{}`` for the parameter's name, such as ``"{}.anchor"``.

    Raises:
        ValueError: a tensor is missing or unexpected.
    """
    if unknown := [name for name in tensors if name not in parameters]:
        raise ValueError(f"state for {unknown[0]!r}, which this trunk does not have: it belongs to another network")
    if missing := [name for name in parameters if name not in tensors]:
        raise ValueError(f"the saved state has no '{saved_as.format(missing[0])}': it belongs to another network")


def check_fit(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], saved_as: str) -> None:
    """Check that there is one tensor of the right shape for each parameter; arguments as for :func:`check_names`.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape.
    """
    check_names(tensors, parameters, saved_as)
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise ValueError(
                f"'{saved_as.format(name)}' is {tuple(tensors[name].shape)}, expected {tuple(parameter.shape)}: "
                "another network's state"
            )


def fitted(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], kind: str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Check tensors and copy them to the device and memory layout of the parameters.

    Needed because a checkpoint is loaded on the CPU and contiguous.

    Args:
        tensors: One kind of tensor by parameter name.
        parameters: Parameters of the network.
        kind: Name of the kind in a saved state.
        dtype: Dtype of the copies; None: that of each parameter.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape.
    """
    check_fit(tensors, parameters, f"{{}}.{kind}")
    return {
        name: torch.empty_like(parameter, dtype=dtype, requires_grad=False).copy_(tensors[name])
        for name, parameter in parameters.items()
    }
