"""``bits.project_and_quantize_`` for large tensors on a CPU: cache blocking and threads.

The operation makes six passes over four tensors after every optimizer step and is bound by memory bandwidth: 411 MB of
traffic for the paper's largest layer, 154 MB if each block stays in the cache between passes. It uses NumPy, whose
elementwise operations start no threads of their own and release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from blip_rl.core.blocks import CACHED, row_blocks

LARGE = 2**19
"""Number of elements from which blocks and threads are faster."""
Array = npt.NDArray[np.floating]


def worth_blocks(weight: Float[Tensor, " ..."]) -> bool:
    """Return whether :func:`project_and_quantize_in_blocks_` is faster for a tensor."""
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
    return on_cpu and weight.numel() >= LARGE and weight.shape[0] > 1


def project_and_quantize_in_blocks_(
    weight: Float[Tensor, "*shape"],
    remainder: Float[Tensor, "*shape"],
    low: Float[Tensor, "*shape"],
    high: Float[Tensor, "*shape"],
    step: float,
) -> None:
    """Do what ``project_and_quantize_`` does, bit-identically; ``step`` is the grid step, b·2^−N."""
    pieces = list(row_blocks(*(tensor.detach() for tensor in (weight, remainder, low, high)), elements=CACHED))
    threads = torch.get_num_threads()

    def land(first: int) -> None:
        # Interleaved blocks balance the threads; they are disjoint views, so no locks are needed.
        for piece in pieces[first::threads]:
            _project_and_quantize_block(*(tensor.numpy() for tensor in piece), step=step)

    _at_once(land, threads)


def _at_once(work: Callable[[int], None], threads: int) -> None:
    """Call ``work(i)`` for i < ``threads``, each in a thread of its own, ``work(0)`` in the calling one."""
    if threads == 1:
        work(0)
        return
    # Not kept between calls: threads do not survive a fork, and a child would wait for them without end.
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, number) for number in range(1, threads)]
        work(0)
    for other in others:
        other.result()  # raises what the thread raised


def _project_and_quantize_block(weight: Array, remainder: Array, low: Array, high: Array, *, step: float) -> None:
    # The lines of project_and_quantize_, one by one: NumPy rounds each as torch does, so the results are bit-identical.
    np.add(weight, remainder, out=weight)
    np.maximum(weight, low, out=remainder)
    np.minimum(remainder, high, out=remainder)
    np.divide(remainder, step, out=weight)
    np.rint(weight, out=weight)
    np.multiply(weight, step, out=weight)
    np.subtract(remainder, weight, out=remainder)
