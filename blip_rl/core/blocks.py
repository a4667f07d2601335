"""Elementwise work on large tensors, piece by piece: what it needs meanwhile is small, and stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED = 2**17
"""Elements of a piece: half a megabyte of float32, so that the few tensors of an equation fit in a core's cache."""


def row_blocks(*tensors: Tensor, elements: int = CACHED) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors of one shape along their first dimension.

    Args:
        *tensors: All of one shape, in any layout and of any types.
        elements: The most that a piece may have; a single row may have more.

    Yields:
        The same rows of every tensor, as views.
    """
    first = tensors[0]
    if first.numel() <= elements:
        yield tensors
        return
    rows = max(1, elements * first.shape[0] // first.numel())
    yield from zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
