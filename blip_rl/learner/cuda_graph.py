"""Device work that is the same every time, recorded once and replayed: one launch instead of some hundred."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")

_WARM_UP_RUNS = 3
"""Runs before the recording: libraries pick their algorithms, the optimizer makes its state, memory is laid out."""


def can_record(device: torch.device) -> bool:
    """Whether work on this device can be recorded at all."""
    return device.type == "cuda"


class Recording(Generic[Result]):
    """A function without arguments that reads and writes the same tensors at every call.

    The first calls run it as it is, and count: nothing has to be put back after a warm-up. Then it is recorded as a
    CUDA graph, which runs nothing, and from then on replayed. On other devices, and where a recording fails, every call
    runs it as it is. What it returns lies in the recording's memory: use it before the next call.

    The function must neither wait for the device nor decide anything by what is in a tensor, and every tensor that it
    reads from outside must stay where it is for as long as the recording is used.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self._work, self._device, self._runs = work, device, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        # Warm-up and recording share a stream: autograd adds a gradient up on the stream that first saw its parameter.
        self._stream = torch.cuda.Stream(device) if can_record(device) else None  # type: ignore[no-untyped-call]

    def run(self) -> Result:
        """Do the work once."""
        if self._stream is None:
            return self._work()
        with torch.cuda.device(self._device):
            if self._graph is None and self._runs < _WARM_UP_RUNS:
                self._runs += 1
                return self._beside(self._stream)
            if self._graph is None:
                self._record(self._stream)
            return self._work() if self._graph is None else self._replay(self._graph)

    def _beside(self, stream: torch.cuda.Stream) -> Result:
        """Run the work on the recording's stream, after all that was asked for before and before all that follows."""
        now = torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            result = self._work()
        now.wait_stream(stream)
        return result

    def _record(self, stream: torch.cuda.Stream) -> None:
        """Take the recording, in memory of its own; where that fails, say so once and do without."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer block brings the stream back also where ending a failed recording fails itself.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=stream):
                self._result = self._work()
        except RuntimeError as error:
            warnings.warn(
                f"no CUDA graph could be recorded: {error}; going on without, more slowly (compute.capture = 'off' "
                "does not try)",
                stacklevel=2,
            )
            self._stream, self._result = None, None
            return
        self._graph = graph

    def _replay(self, graph: torch.cuda.CUDAGraph) -> Result:
        graph.replay()
        return self._result  # type: ignore[return-value]
