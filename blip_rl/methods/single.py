"""Single: an independent trunk for each task. The reference for forward transfer and for loss of plasticity.

Each task starts from the same initial weights and shares none, so nothing is forgotten and nothing is transferred.
State: a copy of the trunk for each finished task, and one of the initial weights; 4 bytes per parameter and copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.weights import copy_weights, exchanged_weights, set_weights
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network

_START = 0  # index of the initial weights; the copy of a finished task has the number of the task


class Single(Method):
    """Resets the trunk before each task, and exchanges its weights while a finished task is played."""

    capturable: ClassVar[bool] = True
    distillable: ClassVar[bool] = False
    task_blind: ClassVar[bool] = False
    no_visits: ClassVar[str] = "it learns every task from scratch, so a second visit would start again"

    def __init__(self, **settings: Any) -> None:
        """Create the method; it has no settings."""
        super().__init__(**settings)
        self._copies: list[dict[str, Tensor]] = []  # by number

    def start_task(self, trunk: nn.Module) -> None:
        """Save the initial weights at the first task; load them at each later one.

        Raises:
            ValueError: the copies belong to another network.
        """
        if self._copies:
            set_weights(trunk, self._copy_for(_START, trunk))
        else:
            self._copies.append(copy_weights(trunk))

    def resume_task(self, trunk: nn.Module) -> None:
        """Keep the trunk as it is: it has the weights that the task has reached."""

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Save a copy of the trunk."""
        if not self._copies:
            raise RuntimeError("end_task before start_task: attach the method while the task is being learned")
        self._copies.append(copy_weights(finished.trunk))
        return {}

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Within the block, load the weights of a finished task.

        Raises:
            ValueError: the copies belong to another network.
        """
        if task >= len(self._copies):
            yield
            return
        with exchanged_weights(trunk, self._copy_for(task, trunk)):
            yield

    def state(self) -> MethodState:
        """Return all copies, named ``<number>.<parameter>``."""
        tensors = {f"{n}.{name}": tensor for n, copy in enumerate(self._copies) for name, tensor in copy.items()}
        return MethodState(tensors, {"copies": len(self._copies)})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return a copy of the trunk for each task, and one of the initial weights."""
        return {
            f"{number}.{name}": saved.TensorLayout(parameter.dtype, tuple(parameter.shape))
            for number in range(len(network.outputs) + 1)
            for name, parameter in network.parameters().items()
        }

    def describe(self, state: MethodState) -> list[str]:
        """Return the number of copies."""
        return [f"{max(0, int(state.values['copies']) - 1)} finished tasks have a trunk of their own"]

    def load_state(self, state: MethodState) -> None:
        """Load saved copies; they are checked against the trunk when they are used.

        Raises:
            ValueError: there are fewer copies than the state says.
        """
        count = int(state.values["copies"])
        if count > len(state.tensors):  # each has a tensor at least
            raise ValueError(f"{count:,} copies in {len(state.tensors)} tensors: a damaged state")
        self._copies = [{} for _ in range(count)]
        for key, tensor in state.tensors.items():
            number, name = key.split(".", 1)
            self._copies[int(number)][name] = tensor

    def _copy_for(self, number: int, trunk: nn.Module) -> dict[str, Tensor]:
        """Return one of the copies, checked to fit the trunk."""
        copy = self._copies[number]
        saved.check_fit(copy, dict(trunk.named_parameters()), f"{number}.{{}}")
        return copy
