"""Device work that is the same every time, recorded once and replayed: one launch instead of some hundred."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from blip_rl.learner.diagnostics import UpdateMetrics
from blip_rl.learner.rollout import Minibatch

Result = TypeVar("Result")

_WARM_UP_RUNS = 3
"""Runs before the recording: libraries pick their algorithms, the optimizer makes its state, memory is laid out."""


def can_capture(device: torch.device) -> bool:
    """Whether work on this device can be recorded at all."""
    return device.type == "cuda"


class CapturedFunction(Generic[Result]):
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
        self._stream = torch.cuda.Stream(device) if can_capture(device) else None  # type: ignore[no-untyped-call]

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


class CapturedUpdate:
    """Forward, loss, backward, clipping, the optimizer's step and the method's, over memory that stays where it is.

    What changes from one minibatch to the next is in tensors: the minibatch and the learning rate. All else is fixed
    at the recording: the optimizer with its parameters and state, the method, the sizes, PPO's numbers.

    Attributes:
        batch: Where every minibatch must be written before its update.
        fixed: What the recording is good for; where any of it has changed, there must be another.
    """

    def __init__(
        self,
        update: Callable[[Minibatch], UpdateMetrics],
        optimizer: torch.optim.Optimizer,
        batch: Minibatch,
        fixed: tuple[Any, ...],
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            update: One optimizer step on a minibatch; never looks into a tensor.
            optimizer: What it steps.
            batch: Memory for the minibatches.
            fixed: See above.
        """
        self.batch, self.fixed, self._update, self._optimizer = batch, fixed, update, optimizer
        device = batch.values.device
        # The kernel of a GPU reads a rate of 32 bits; on the CPU it takes the number as it is.
        self._rate = torch.zeros((), device=device, dtype=torch.float64 if device.type == "cpu" else torch.float32)
        self._function = CapturedFunction(self._step, device)

    def __call__(self, batch: Minibatch) -> UpdateMetrics:
        """Update on what has been written into :attr:`batch`."""
        assert batch is self.batch
        self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        return UpdateMetrics.from_row(self._function.run().clone())  # the next replay writes over it

    def _step(self) -> Tensor:
        with _for_capture(self._optimizer, self._rate):
            return self._update(self.batch).row()


@contextmanager
def _for_capture(optimizer: torch.optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """Let the optimizer read its rate from a tensor and, on a GPU, keep to what can be recorded."""
    settings: dict[str, Any] = {"lr": rate} | ({"capturable": True} if rate.device.type == "cuda" else {})
    before = [{name: group[name] for name in settings} for group in optimizer.param_groups]
    # It would warn of the runs before the recording.
    optimizer._warned_capturable_if_run_uncaptured = True
    for group in optimizer.param_groups:
        group.update(settings)
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.update(values)
