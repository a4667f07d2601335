"""Blockwise elementwise operations on large tensors, so that temporaries are small and stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED = 2**17
"""Elements of a block: half a megabyte of float32, so that the tensors of one equation fit in a core's cache."""


def row_blocks(*tensors: Tensor, elements: int = CACHED) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of one shape into blocks along their first dimension.

    Args:
        *tensors: Tensors of one shape, any memory layout and dtype.
        elements: Maximum number of elements per block; a single row may exceed it.

    Yields:
        The same rows of every tensor, as views.
    """
    first = tensors[0]
    if first.numel() <= elements:
        yield tensors
        return
    rows = max(1, elements * first.shape[0] // first.numel())
    yield from zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
