"""Separate-trunk learning: every task is first learned without protection in its own copy of the trunk.

At its end the policy is distilled into the shared trunk (:mod:`blip_rl.learner.distil`), under the method's protection.
The learning itself can neither change earlier tasks nor be constrained by their protection. Related work: Progress &
Compress (Schwarz et al. 2018, arXiv 1805.06370) and Reset & Distill (Ahn et al. 2024, arXiv 2403.05066).

While a task is learned, its weights are in the trunk and the shared ones in a copy: 4 more bytes per trunk parameter.
After the task's end there are none, but with ``start = "previous"`` 4, for the weights from which the next task starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.agent_config import AgentConfig, TrunkStart
from blip_rl.core import saved
from blip_rl.core.weights import copy_weights, exchanged_weights, set_weights
from blip_rl.learner.trunk import Trunk
from blip_rl.methods import make_method
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network, Outputs, parameter_bytes

_SHARED, _PREVIOUS = "shared.", "previous."  # prefixes of a saved state
_VALUES = "learned_apart"


def build_method(config: AgentConfig) -> Method:
    """Build the method of an agent recipe, wrapped in :class:`LearnApart` for ``learning = "distil"``.

    Raises:
        UserError: no method has this name, or a setting is invalid.
    """
    method = make_method(config.method)
    return (
        method
        if config.learning == "direct"
        else LearnApart(method, config.distil.start, first_task=config.distil.first_task)
    )


class LearnApart(Method):
    """Sets the shared trunk aside while a task is learned; afterwards delegates to the wrapped method.

    For each task, optionally without the first::

        start_task(trunk)      the shared weights are set aside and the trunk gets weights of the task's own
        restore_shared(trunk)  the shared weights are back; from here on all hooks are the wrapped method's
        end_task(finished)     the wrapped method consolidates the task
    """

    def __init__(self, inner: Method, start: TrunkStart = "fresh", *, first_task: bool = True) -> None:
        """Wrap a method.

        Args:
            inner: Protects the shared trunk.
            start: Initial weights of a task's own trunk: new ones, a copy of the shared ones, or those that the
                previous task was learned with.
            first_task: Whether the first task is learned apart too.
        """
        super().__init__()
        self.inner, self._start, self._first_task = inner, start, first_task
        self.tasks_seen = 0
        self._shared: dict[str, Tensor] = {}  # while a task is learned apart
        self._previous: dict[str, Tensor] = {}  # between two tasks, with start = "previous"

    @property
    def apart(self) -> bool:
        """Whether the trunk is the current task's own and the shared weights are kept aside."""
        return bool(self._shared)

    @property
    def _comes_back(self) -> bool:
        """Whether the task being learned has been learned before."""
        return 1 <= self.task <= self.tasks_seen

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # depends on the phase
        """True while a task is learned apart, since no hook acts then; else that of the wrapped method."""
        return self.apart or self.inner.capturable

    @property
    def samples_wanted(self) -> int:
        """That of the wrapped method."""
        return self.inner.samples_wanted

    @property
    def total_bits(self) -> int:
        """That of the wrapped method."""
        return self.inner.total_bits

    @property
    def plays_with_state(self) -> bool:
        """That of the wrapped method: after the end of a task, its weights alone play."""
        return self.inner.plays_with_state

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Check the task with the wrapped method.

        Raises:
            UserError: with the task, the rule and the fix.
        """
        self.inner.check_task(name, action_space)

    def start_task(self, trunk: nn.Module) -> None:
        """Start the wrapped method, then set the shared weights aside.

        Raises:
            ValueError: the state of the wrapped method, or the previous task's weights, belong to another network.
        """
        self.inner.task = self.task
        _check_fit(trunk, self._previous, _PREVIOUS)
        own = copy_weights(trunk)  # as they are before the method changes them: its task is learned without it
        self.inner.start_task(trunk)  # before the exchange: it may bind to the shared weights
        if self.tasks_seen or self._first_task:
            # The copies go aside and the trunk's own tensors are overwritten in place: the optimizer, the hooks and any
            # CUDA graph refer to those tensors, so nothing has to be rebuilt for the exchange.
            self._shared = copy_weights(trunk)
            # A task that comes back continues from the shared weights, which know it.
            if self._start == "fresh" and not self._comes_back:
                cast(Trunk, trunk).reset_parameters()
            else:
                set_weights(trunk, own if self._comes_back else self._previous or own)
            self._previous = {}

    def resume_task(self, trunk: nn.Module) -> None:
        """Resume the wrapped method on the shared weights.

        Raises:
            ValueError: the shared weights or the state of the wrapped method belong to another network.
        """
        self.inner.task = self.task
        if not self.apart:
            self.inner.resume_task(trunk)
            return
        _check_fit(trunk, self._shared, _SHARED)
        # The wrapped method must see the weights that it protects. It may also correct them (BLIP moves every weight
        # into its interval) or move its state to the trunk's device, so the copy is taken anew afterwards.
        with exchanged_weights(trunk, self._shared):
            self.inner.resume_task(trunk)
            self._shared = copy_weights(trunk)

    def restore_shared(self, trunk: nn.Module) -> None:
        """Write the shared weights back into the trunk; the task's own are overwritten, or kept for the next task."""
        if self._start == "previous":
            self._previous = copy_weights(trunk)
        set_weights(trunk, self._shared)
        self._shared = {}

    def at_progress(self, done: float) -> None:
        """Do nothing while the task is learned apart."""
        if not self.apart:
            self.inner.at_progress(done)

    def schedule_remaining(self, remaining: float) -> float:
        """Change nothing while the task is learned apart."""
        return remaining if self.apart else self.inner.schedule_remaining(remaining)

    def loss(self, outputs: Outputs) -> Tensor | None:
        """Do nothing while the task is learned apart."""
        return None if self.apart else self.inner.loss(outputs)

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Do nothing while the task is learned apart."""
        if not self.apart:
            self.inner.add_gradient(name, parameter)

    def after_step(self) -> None:
        """Do nothing while the task is learned apart."""
        if not self.apart:
            self.inner.after_step()

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Let the wrapped method consolidate the task.

        Raises:
            RuntimeError: the trunk is not the shared one.
        """
        if self.apart:
            raise RuntimeError("end_task while the trunk is the task's own: distil it into the shared trunk first")
        metrics = self.inner.end_task(finished)
        self.tasks_seen += not self._comes_back
        return metrics

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Within the block, run a finished task with the shared weights, as the wrapped method does.

        Raises:
            ValueError: the weights belong to another network.
        """
        if not self.apart:
            with self.inner.playing(trunk, task):
                yield
        elif task > self.tasks_seen or task == self.task:  # the trunk already has the weights that play it
            yield
        else:
            _check_fit(trunk, self._shared, _SHARED)
            with exchanged_weights(trunk, self._shared), self.inner.playing(trunk, task):
                yield

    def frozen_bits(self) -> dict[str, Tensor]:
        """Those of the wrapped method."""
        return self.inner.frozen_bits()

    def state(self) -> MethodState:
        """State of the wrapped method, number of tasks seen, and the trunk that is set aside, if there is one."""
        inner = self.inner.state()
        # Clones, so that a state that a caller keeps never changes with the method.
        aside = {
            f"{prefix}{name}": tensor.clone()
            for prefix, weights in ((_SHARED, self._shared), (_PREVIOUS, self._previous))
            for name, tensor in weights.items()
        }
        values = {"tasks_seen": self.tasks_seen, "apart": self.apart}
        return MethodState(inner.tensors | aside, {**inner.values, _VALUES: values})

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return those of the wrapped method, of the shared trunk, and of the previous task's where it is kept."""
        aside = {
            f"{prefix}{name}": saved.TensorLayout(parameter.dtype, tuple(parameter.shape))
            for prefix in (_SHARED, *([_PREVIOUS] if self._start == "previous" else []))
            for name, parameter in network.parameters().items()
        }
        return self.inner.state_tensors(network) | aside

    def describe(self, state: MethodState) -> list[str]:
        """Return the description of the wrapped method."""
        return self.inner.describe(_inner_state(state))

    def kept_bytes(self, network: Network) -> int:
        """Return those of the wrapped method and, with ``start = "previous"``, of a trunk."""
        return self.inner.kept_bytes(network) + (parameter_bytes(network.trunk) if self._start == "previous" else 0)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; shared weights are checked against a trunk when a task is resumed.

        Raises:
            ValueError: the state is not of tasks learned apart, or shared weights are missing or unexpected.
        """
        own = state.values.get(_VALUES)
        if not isinstance(own, dict):
            raise ValueError("the saved state is of learning = 'direct', but the recipe says learning = 'distil'")
        shared, previous = _under(_SHARED, state), _under(_PREVIOUS, state)
        if bool(shared) != own["apart"]:
            raise ValueError(f"{len(shared)} tensors of the shared trunk with apart = {own['apart']}: a damaged state")
        self.inner.load_state(_inner_state(state))
        self.tasks_seen, self._shared, self._previous = int(own["tasks_seen"]), shared, previous


def _check_fit(trunk: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    if weights:
        saved.check_fit(weights, dict(trunk.named_parameters()), f"{prefix}{{}}")


def _under(prefix: str, state: MethodState) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}


def _inner_state(state: MethodState) -> MethodState:
    """Return the part of a state that belongs to the method inside."""
    tensors = {name: tensor for name, tensor in state.tensors.items() if not name.startswith((_SHARED, _PREVIOUS))}
    return MethodState(tensors, {key: value for key, value in state.values.items() if key != _VALUES})
