"""PPO's update on one minibatch as a fixed piece of device work: recorded once, replayed for every minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from blip_rl.learner.cuda_graph import Recording
from blip_rl.learner.diagnostics import UpdateFigures
from blip_rl.learner.rollout import Minibatch


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
        update: Callable[[Minibatch], UpdateFigures],
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
        self._recording = Recording(self._step, device)

    def __call__(self, batch: Minibatch) -> UpdateFigures:
        """Update on what has been written into :attr:`batch`."""
        assert batch is self.batch
        self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        return UpdateFigures.from_row(self._recording.run().clone())  # the next replay writes over it

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
