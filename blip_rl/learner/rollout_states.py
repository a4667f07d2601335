"""The observations that a task is distilled on: those of its last rollouts, and later those played for it."""

from __future__ import annotations

import torch
from torch import Tensor


class RolloutStates:
    """Observations in the order in which they were played, on the CPU; empty until some are added.

    They can take most of a run's memory, so they are in one tensor that is allocated once, with room for all that are
    expected: joining tensors would hold them twice.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, observations: Tensor, expected: int = 0) -> Tensor:
        """Copy observations, (states, ...), raw, from any device.

        Args:
            observations: Of a rollout, or played for distilling.
            expected: Number of states that there will be in all; memory is allocated for them.

        Returns:
            All that there are now, as :meth:`all` does.
        """
        count = self._count + len(observations)
        if self._rows is None or len(self._rows) < count:
            rows = torch.empty((max(count, expected), *observations.shape[1:]), dtype=observations.dtype)
            if self._rows is not None:
                rows[: self._count] = self._rows[: self._count]
            self._rows = rows
        self._rows[self._count : count] = observations.detach()
        self._count = count
        return self._rows[:count]

    def all(self) -> Tensor | None:
        """Return all of them, (states, ...), without copying; None if there are none."""
        return None if self._rows is None else self._rows[: self._count]

    def replace(self, observations: Tensor | None) -> None:
        """Forget all of them and keep these instead, if any."""
        self._rows, self._count = observations, 0 if observations is None else len(observations)
