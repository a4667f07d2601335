"""Single: a fresh agent for every task, kept for ever. What transfer and the loss of plasticity are measured against.

Each task starts from the same initial trunk and nothing is shared, so nothing can be forgotten and nothing transferred.
Every finished task keeps its own copy of the trunk: 4 bytes per trunk parameter and task, and once more for the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.weights import copy_weights, exchanged_weights, set_weights
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network

_START = 0  # number of the copy that every task starts from; a finished task's copy has the task's number


class Single(Method):
    """Puts the trunk back to its start before each task, and swaps each task's own trunk in when it is played."""

    capturable: ClassVar[bool] = True
    distillable: ClassVar[bool] = False

    def __init__(self, **settings: Any) -> None:
        """There is nothing to set."""
        super().__init__(**settings)
        self._copies: list[dict[str, Tensor]] = []  # by number

    def start_task(self, trunk: nn.Module) -> None:
        """Remember the very first weights; give them to every later task.

        Raises:
            ValueError: the copies are another network's.
        """
        if self._copies:
            set_weights(trunk, self._copy_for(_START, trunk))
        else:
            self._copies.append(copy_weights(trunk))

    def resume_task(self, trunk: nn.Module) -> None:
        """The trunk is where the task got to, and stays there."""

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Keep the trunk as this task leaves it."""
        if not self._copies:
            raise RuntimeError("end_task before start_task: attach the method while the task is being learned")
        self._copies.append(copy_weights(finished.trunk))
        return {}

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Within the block a finished task has its own trunk back.

        Raises:
            ValueError: the copies are another network's.
        """
        if task >= len(self._copies):
            yield
            return
        with exchanged_weights(trunk, self._copy_for(task, trunk)):
            yield

    def state(self) -> MethodState:
        """All copies, named by their number and parameter."""
        tensors = {f"{n}.{name}": tensor for n, copy in enumerate(self._copies) for name, tensor in copy.items()}
        return MethodState(tensors, {"copies": len(self._copies)})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return a copy of the trunk for each task, and one of the start."""
        return {
            f"{number}.{name}": saved.TensorLayout(parameter.dtype, tuple(parameter.shape))
            for number in range(len(network.outputs) + 1)
            for name, parameter in network.parameters().items()
        }

    def describe(self, state: MethodState) -> list[str]:
        """Return the number of copies."""
        return [f"{max(0, int(state.values['copies']) - 1)} finished tasks have a trunk of their own"]

    def load_state(self, state: MethodState) -> None:
        """Take saved copies; they are checked against the trunk when they meet one.

        Raises:
            ValueError: fewer are there than the state says.
        """
        count = int(state.values["copies"])
        if count > len(state.tensors):  # each has a tensor at least
            raise ValueError(f"{count:,} copies in {len(state.tensors)} tensors: a damaged state")
        self._copies = [{} for _ in range(count)]
        for key, tensor in state.tensors.items():
            number, name = key.split(".", 1)
            self._copies[int(number)][name] = tensor

    def _copy_for(self, number: int, trunk: nn.Module) -> dict[str, Tensor]:
        """One of the copies, checked to fit the trunk."""
        copy = self._copies[number]
        saved.check_fit(copy, dict(trunk.named_parameters()), f"{number}.{{}}")
        return copy
