"""CUDA graphs: capture device work once and replay it with a single launch instead of hundreds.

Used in two places: ``collector.StagedActor`` captures the choice of actions, ``BasePPO.train`` one update.

Measured on an H200 (docs/gpu.md): captured execution is bit-identical to eager execution, and training is 1.57 × as
fast with 16 environments, 1.14 × with 64.

Constraints, see "CUDA Graphs" in PyTorch's notes on CUDA semantics: captured work must not synchronise with the host,
its control flow must not depend on tensor values, and its inputs must keep their addresses. So minibatches,
observations and the learning rate are written into fixed buffers, and a new optimizer or task needs a new capture.
"""

from __future__ import annotations

import gc
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
"""Eager runs before the capture: cuDNN selects algorithms and the optimizer allocates its state."""


def can_capture(device: torch.device) -> bool:
    """Return whether CUDA graphs can be captured on this device."""
    return device.type == "cuda"


class CapturedFunction(Generic[Result]):
    """A function without arguments, run eagerly at first and replayed as a CUDA graph from then on.

    The warm-up runs are real calls whose effects are kept: no state has to be restored after them. The capture itself
    does not run the function; the replay that follows it does. On other devices, and where the capture fails, every
    call runs eagerly. Results lie in the graph's memory pool and are overwritten by the next replay.

    The function must not synchronise with the host or branch on tensor values, and every tensor that it reads must keep
    its address for as long as the graph is used.
    """

    def __init__(self, work: Callable[[], Result], device: torch.device) -> None:
        self._work, self._device, self._runs = work, device, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        # Warm-up and capture share a side stream: autograd accumulates a gradient on the stream that first used its
        # parameter, and the default stream cannot be captured.
        self._stream = torch.cuda.Stream(device) if can_capture(device) else None  # type: ignore[no-untyped-call]

    def run(self) -> Result:
        """Run the function once: eagerly or by replay."""
        if self._stream is None:
            return self._work()
        with torch.cuda.device(self._device):
            if self._graph is None and self._runs < _WARM_UP_RUNS:
                self._runs += 1
                return self._run_on_side_stream(self._stream)
            if self._graph is None:
                self._capture(self._stream)  # does not run the function, so the replay below is this call's run
            return self._work() if self._graph is None else self._replay(self._graph)

    def _run_on_side_stream(self, stream: torch.cuda.Stream) -> Result:
        """Run the function on the side stream, ordered after all earlier work and before all later work."""
        # Both waits are needed: the caller's stream wrote the inputs and will read the results.
        now = torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            result = self._work()
        now.wait_stream(stream)
        return result

    def _capture(self, stream: torch.cuda.Stream) -> None:
        """Capture the graph, in a memory pool of its own; warn once and stay eager where that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer block restores the current stream even if leaving the failed capture raises itself.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                _no_garbage_collection(),
                torch.cuda.graph(graph, stream=stream),
            ):
                self._result = self._work()
        except RuntimeError as error:
            warnings.warn(
                f"CUDA graph capture failed: {error}; running without, more slowly (set compute.capture = 'off' "
                "to skip the attempt)",
                stacklevel=2,
            )
            self._stream, self._result = None, None  # from now on run() is eager, without another attempt
            return
        # As a capture begins, torch's random generator sets the offset of its graphs to 0, eagerly and on this stream.
        # A replay sets it to the real one on the caller's: in the other order it would repeat random numbers.
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = graph

    def _replay(self, graph: torch.cuda.CUDAGraph) -> Result:
        # The result of the capture: replays write into the same tensors, and its Python objects stay valid.
        graph.replay()
        return self._result  # type: ignore[return-value]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and none inside the block.

    Graphs of earlier tasks can be part of reference cycles. CUDA does not permit destroying a graph during a capture:
    the capture would become invalid, and with it the random generator of the device.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CapturedUpdate:
    """One PPO update as a CUDA graph: forward, loss, backward, clipping, optimizer step and the method's hooks.

    Only tensor contents change between replays: the minibatch and the learning rate. All else is baked into the graph:
    the optimizer with its parameters and state, the method, sizes and hyperparameters.

    Attributes:
        batch: Input buffer; every minibatch must be written into it before its update.
        fixed: Key of everything baked into the graph; if any of it changes, a new capture is needed.
    """

    def __init__(
        self,
        update: Callable[[Minibatch], UpdateMetrics],
        optimizer: torch.optim.Optimizer,
        batch: Minibatch,
        fixed: tuple[Any, ...],
    ) -> None:
        """Prepare the capture; nothing runs yet.

        Args:
            update: One optimizer step on a minibatch; must not read tensor values on the host.
            optimizer: The optimizer that ``update`` steps.
            batch: See above.
            fixed: See above.
        """
        self.batch, self.fixed, self._update, self._optimizer = batch, fixed, update, optimizer
        device = batch.values.device
        # The fused CUDA kernel reads a float32 learning rate; on the CPU a float64 tensor keeps the exact Python float.
        self._rate = torch.zeros((), device=device, dtype=torch.float64 if device.type == "cpu" else torch.float32)
        self._function = CapturedFunction(self._step, device)

    def __call__(self, batch: Minibatch) -> UpdateMetrics:
        """Update on the contents of :attr:`batch`."""
        assert batch is self.batch
        # Filled from the host before each replay: a launch with a constant, no synchronisation.
        self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        return UpdateMetrics.from_row(self._function.run().clone())  # the next replay overwrites the row

    def _step(self) -> Tensor:
        with _for_capture(self._optimizer, self._rate):
            return self._update(self.batch).row()


@contextmanager
def _for_capture(optimizer: torch.optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """Let the optimizer read its learning rate from a tensor and, on CUDA, use its capturable code path."""
    # capturable: Adam's step counter is a tensor on the device, and its bias corrections are computed there.
    settings: dict[str, Any] = {"lr": rate} | ({"capturable": True} if rate.device.type == "cuda" else {})
    before = [{name: group[name] for name in settings} for group in optimizer.param_groups]
    # The eager warm-up runs would trigger its warning about capturable=True without a capture.
    optimizer._warned_capturable_if_run_uncaptured = True
    for group in optimizer.param_groups:
        group.update(settings)
    try:
        yield
    finally:  # stable-baselines3 sets the learning rate as a float, and snapshots must not depend on the path
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.update(values)
