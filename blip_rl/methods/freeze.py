"""Freeze: the first task makes the trunk, later ones learn their own parts over it. Nothing of it can be forgotten."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from blip_rl.methods.base import FinishedTask, Method, MethodState


class Freeze(Method):
    """Keeps the trunk as the first task left it, to the bit."""

    capturable: ClassVar[bool] = True

    def __init__(self, **settings: Any) -> None:
        """Take no settings: there are none."""
        super().__init__(**settings)
        self.tasks_seen = 0

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Take the gradient away: an optimizer leaves a parameter without one alone, weight decay and all."""
        if self.tasks_seen:
            parameter.grad = None

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Count the task."""
        self.tasks_seen += 1
        return {}

    def state(self) -> MethodState:
        """The number of tasks seen: 0 bytes per parameter."""
        return MethodState(values={"tasks_seen": self.tasks_seen})

    def load_state(self, state: MethodState) -> None:
        """Take a saved state.

        Raises:
            ValueError: it holds tensors, which this method never saves.
        """
        if state.tensors:
            raise ValueError(f"Freeze keeps no tensors, but the state holds {min(state.tensors)!r}: another method's")
        self.tasks_seen = int(state.values["tasks_seen"])
