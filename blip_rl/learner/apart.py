"""Learning apart: every task is learned, unprotected, by a trunk of its own.

At its end the policy is distilled into the shared trunk (:mod:`blip_rl.learner.distil`), which the method protects then
as it would protect learning. The learning itself can neither change earlier tasks nor be held back by their protection.
Ancestors: Progress & Compress (Schwarz et al. 2018, arXiv 1805.06370) and Reset & Distill (Ahn et al. 2024, arXiv
2403.05066).

The task's own weights are in the trunk itself and the shared ones beside it: 4 bytes per trunk parameter while a task
is learned, 0 after its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.config import AgentConfig
from blip_rl.core import saved
from blip_rl.core.weights import copy_weights, exchanged_weights, set_weights
from blip_rl.learner.trunk import Trunk
from blip_rl.methods import make_method
from blip_rl.methods.base import FinishedTask, Method, MethodState, Outputs

_PREFIX = "shared."
_VALUES = "learned_apart"


def method_of(config: AgentConfig) -> Method:
    """Build what protects earlier tasks as an agent recipe says: its method, or that method with tasks learned apart.

    Raises:
        UserError: no method has this name.
        pydantic.ValidationError: a setting is wrong.
    """
    method = make_method(config.method)
    return (
        method
        if config.learning == "direct"
        else LearnApart(method, config.distil.start, first_task=config.distil.first_task)
    )


class LearnApart(Method):
    """Keeps the shared trunk aside while a task is learned; after that it is the method inside.

    For each task, of which the first can be left out::

        start_task(trunk)      the shared weights are set aside and the trunk gets the task's own, unprotected
        restore_shared(trunk)  the shared weights are back: from here on the hooks are those of the method inside
        end_task(finished)     the method inside consolidates the task
    """

    def __init__(self, inner: Method, start: Literal["fresh", "shared"] = "fresh", *, first_task: bool = True) -> None:
        """Wrap a method.

        Args:
            inner: Protects the shared trunk.
            start: Weights that a task's own trunk starts from.
            first_task: Whether the first task is learned apart, too.
        """
        super().__init__()
        self.inner, self._start, self._first_task = inner, start, first_task
        self.tasks_seen = 0
        self._shared: dict[str, Tensor] = {}  # while a task is learned apart

    @property
    def apart(self) -> bool:
        """Whether the trunk is the current task's own and the shared weights are kept aside."""
        return bool(self._shared)

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # of the hooks as they are now
        """While a task is learned apart there is nothing to do after a step, so it can be recorded."""
        return self.apart or self.inner.capturable

    @property
    def samples_wanted(self) -> int:
        """As many as the method inside needs."""
        return self.inner.samples_wanted

    @property
    def total_bits(self) -> int:
        """Of the method inside."""
        return self.inner.total_bits

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Refuse what the method inside refuses.

        Raises:
            UserError: with the task, the rule and the fix.
        """
        self.inner.check_task(name, action_space)

    def start_task(self, trunk: nn.Module) -> None:
        """Start the method inside, then give the trunk weights of the task's own.

        Raises:
            ValueError: the state of the method inside is another network's.
        """
        self.inner.start_task(trunk)  # while the trunk is still the shared one, to which it may bind
        if self.tasks_seen or self._first_task:
            self._shared = copy_weights(trunk)
            if self._start == "fresh":
                cast(Trunk, trunk).reset_parameters()

    def resume_task(self, trunk: nn.Module) -> None:
        """Resume the method inside, on the shared weights.

        Raises:
            ValueError: the shared weights, or the state of the method inside, are another network's.
        """
        if not self.apart:
            self.inner.resume_task(trunk)
            return
        self._check_fit(trunk)
        with exchanged_weights(trunk, self._shared):
            self.inner.resume_task(trunk)
            self._shared = copy_weights(trunk)

    def restore_shared(self, trunk: nn.Module) -> None:
        """Put the shared weights back into the trunk in place of the task's own, which are lost."""
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
        """Let the method inside consolidate the task.

        Raises:
            RuntimeError: the trunk is not the shared one.
        """
        if self.apart:
            raise RuntimeError("end_task while the trunk is the task's own: distil it into the shared trunk first")
        metrics = self.inner.end_task(finished)
        self.tasks_seen += 1
        return metrics

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Within the block a finished task finds the shared weights, as the method inside plays it with them.

        Raises:
            ValueError: the weights are another network's.
        """
        if not self.apart:
            with self.inner.playing(trunk, task):
                yield
        elif task > self.tasks_seen:
            yield
        else:
            self._check_fit(trunk)
            with exchanged_weights(trunk, self._shared), self.inner.playing(trunk, task):
                yield

    def frozen_bits(self) -> dict[str, Tensor]:
        """Of the method inside."""
        return self.inner.frozen_bits()

    def state(self) -> MethodState:
        """State of the method inside, the number of tasks seen and, while a task is learned apart, the shared trunk."""
        inner = self.inner.state()
        shared = {f"{_PREFIX}{name}": tensor.clone() for name, tensor in self._shared.items()}
        values = {"tasks_seen": self.tasks_seen, "apart": self.apart}
        return MethodState(inner.tensors | shared, {**inner.values, _VALUES: values})

    def kept_bytes(self, trunk: nn.Module, tasks: int, observation_bytes: int) -> int:
        """What the method inside keeps; the shared trunk, kept aside while a task is learned, is gone at its end."""
        return self.inner.kept_bytes(trunk, tasks, observation_bytes)

    def load_state(self, state: MethodState) -> None:
        """Take a saved state; shared weights are checked against the trunk when they meet one.

        Raises:
            ValueError: it is not of tasks learned apart, or shared weights are missing or too many.
        """
        values = dict(state.values)
        own = values.pop(_VALUES, None)
        if not isinstance(own, dict):
            raise ValueError("the saved state is of learning = 'direct', but the recipe says learning = 'distil'")
        shared = {name[len(_PREFIX) :]: t for name, t in state.tensors.items() if name.startswith(_PREFIX)}
        if bool(shared) != own["apart"]:
            raise ValueError(f"{len(shared)} tensors of the shared trunk with apart = {own['apart']}: a damaged state")
        rest = {name: tensor for name, tensor in state.tensors.items() if not name.startswith(_PREFIX)}
        self.inner.load_state(MethodState(rest, values))
        self.tasks_seen, self._shared = int(own["tasks_seen"]), shared

    def _check_fit(self, trunk: nn.Module) -> None:
        saved.check_fit(self._shared, dict(trunk.named_parameters()), f"{_PREFIX}{{}}")
