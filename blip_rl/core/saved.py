"""Tensors kept of each parameter: what they are called in a saved state, and whether they fit a network.

A method keeps one or several kinds of tensor, each kind a dictionary by parameter name. A saved state is one dictionary
of all, where each is called ``<parameter>.<kind>``.
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
    """Copies of one kind of tensor under the names they are saved by."""
    return {f"{name}.{kind}": tensor.clone() for name, tensor in tensors.items()}


def split(saved: Mapping[str, Tensor], *kinds: str) -> list[dict[str, Tensor]]:
    """The saved tensors of each kind by parameter name: the reverse of :func:`named`. Copies nothing.

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
    """Refuse tensors that are not one for each parameter.

    Args:
        tensors: By parameter name.
        parameters: The network's.
        saved_as: What a tensor is called in the saved state, with ``{}`` for the parameter's name: ``"{}.anchor"``.

    Raises:
        ValueError: one is missing or too many.
    """
    if unknown := [name for name in tensors if name not in parameters]:
        raise ValueError(f"state for {unknown[0]!r}, which this trunk does not have: it belongs to another network")
    if missing := [name for name in parameters if name not in tensors]:
        raise ValueError(f"the saved state has no '{saved_as.format(missing[0])}': it belongs to another network")


def check_fit(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], saved_as: str) -> None:
    """Refuse tensors that are not one for each parameter, of its shape; arguments as for :func:`check_names`.

    Raises:
        ValueError: one is missing, too many or of another shape.
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
    """Copies on the device and in the memory layout of the parameters, checked to be theirs.

    A checkpoint keeps neither: it comes back on the CPU and contiguous.

    Args:
        tensors: One kind of tensor by parameter name.
        parameters: The network's.
        kind: How this kind is called in a saved state.
        dtype: Of the copies; None for each parameter's own.

    Raises:
        ValueError: one is missing, too many or of another shape.
    """
    check_fit(tensors, parameters, f"{{}}.{kind}")
    return {
        name: torch.empty_like(parameter, dtype=dtype, requires_grad=False).copy_(tensors[name])
        for name, parameter in parameters.items()
    }
