"""BLIP's step on large tensors on a CPU: ``bits.project_and_quantize_`` block by block, in the cache and in threads.

It makes six passes over four tensors at every optimizer step, so memory is what it waits for: 416 MB for the paper's
largest layer, 156 MB where each piece stays in the cache from pass to pass. NumPy, because its operations on a piece
start no threads of their own and let others run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blip_rl.core.blocks import CACHED, row_blocks

LARGE = 2**19
"""Elements from which on pieces and threads are worth their while."""
Array = npt.NDArray[np.floating]


def worth_blocks(weight: Tensor) -> bool:
    """Whether a tensor is one for :func:`project_and_quantize_in_blocks_`."""
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
    return on_cpu and weight.numel() >= LARGE and weight.shape[0] > 1


def project_and_quantize_in_blocks_(weight: Tensor, remainder: Tensor, low: Tensor, high: Tensor, step: float) -> None:
    """What ``project_and_quantize_`` does, equal to the bit; ``step`` is the grid's."""
    pieces = list(row_blocks(*(tensor.detach() for tensor in (weight, remainder, low, high)), elements=CACHED))
    threads = torch.get_num_threads()

    def land(first: int) -> None:
        for piece in pieces[first::threads]:
            _project_and_quantize_block(*(tensor.numpy() for tensor in piece), step=step)

    _at_once(land, threads)


def _at_once(work: Callable[[int], None], threads: int) -> None:
    """Call ``work`` with 0, 1, …, each in a thread, the first in this one."""
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:  # made anew each time: threads do not survive a fork
        others = [pool.submit(work, number) for number in range(1, threads)]
        work(0)
    for other in others:
        other.result()


def _project_and_quantize_block(weight: Array, remainder: Array, low: Array, high: Array, *, step: float) -> None:
    np.add(weight, remainder, out=weight)
    np.maximum(weight, low, out=remainder)
    np.minimum(remainder, high, out=remainder)
    np.divide(remainder, step, out=weight)
    np.rint(weight, out=weight)
    np.multiply(weight, step, out=weight)
    np.subtract(remainder, weight, out=remainder)
