"""Freeze: the trunk is learned by the first task and then frozen; later tasks learn only their own parts."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from blip_rl.methods.base import FinishedTask, Method, MethodState


class Freeze(Method):
    """Keeps the trunk bit for bit as the first task left it."""

    capturable: ClassVar[bool] = True

    def __init__(self, **settings: Any) -> None:
        """Create the method; it has no settings."""
        super().__init__(**settings)
        self.tasks_seen = 0

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Remove the gradient: an optimizer skips parameters without one, so weight decay does not move them either."""
        if self.tasks_seen:
            parameter.grad = None

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Count the task."""
        self.tasks_seen += 1
        return {}

    def state(self) -> MethodState:
        """Return the number of tasks seen."""
        return MethodState(values={"tasks_seen": self.tasks_seen})

    def load_state(self, state: MethodState) -> None:
        """Load a saved state.

        Raises:
            ValueError: it holds tensors, which this method never saves.
        """
        if state.tensors:
            raise ValueError(f"Freeze keeps no tensors, but the state holds {min(state.tensors)!r}: another method's")
        self.tasks_seen = int(state.values["tasks_seen"])
