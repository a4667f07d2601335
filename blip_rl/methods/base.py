"""Base class of methods: the hooks that protect earlier tasks.

A method overrides the hooks it needs. For each task they are called in this order::

    start_task(trunk)
        for every update:         at_progress(done), schedule_remaining(remaining)
        for every optimizer step: loss(outputs), add_gradient(name, parameter)…, after_step()
    end_task(finished)

``playing(trunk, task)`` surrounds every evaluation of a task. A method has no access to the agent: only to the trunk
whose parameters it protects and, at the end of a task, to the task's policy. The base class is fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.core.backward_passes import Expectation
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.core.kronecker import Factors, kronecker_fisher
from blip_rl.core.saved import TensorLayout
from blip_rl.recipe_errors import RecipeError, checked
from blip_rl.setting_types import Settings


@dataclass(frozen=True)
class FinishedTask:
    """A task that has just been learned, as a method sees it.

    Attributes:
        trunk: The shared layers passed to ``start_task``.
        head: Trunk output → this task's policy: logits or a torch Distribution.
        observations: (samples, ...) from fresh rollouts of the learned policy; empty if the method asked for none.
        preprocess: Converts raw observations to the input of the trunk.
        generator: Random generator for all draws of the method.
        values: Raw observations → values of the states, shape (samples,); None without a critic.
    """

    trunk: nn.Module
    head: Callable[[Tensor], Any]
    observations: Tensor
    preprocess: Callable[[Tensor], Tensor]
    generator: torch.Generator
    values: Callable[[Tensor], Tensor] | None = None

    def weights(self) -> dict[str, Tensor]:
        """Return the trunk's parameters by name, detached but not copied."""
        return {name: parameter.detach() for name, parameter in self.trunk.named_parameters()}

    def fisher(self, expectation: Expectation, reverse_logits: bool = False) -> dict[str, Tensor]:
        """Return the diagonal Fisher over the observations, or EWC-DR's importance, by parameter name.

        Raises:
            ValueError, TypeError: as :func:`blip_rl.core.fisher.diagonal_fisher`.
            FloatingPointError: the Fisher is not finite.
        """
        fisher = diagonal_fisher(
            self.trunk,
            self.head,
            self.observations,
            expectation=expectation,
            reverse_logits=reverse_logits,
            preprocess=self.preprocess,
            generator=self.generator,
        )
        _check_finite(fisher)
        return fisher

    def kronecker(self, expectation: Expectation, rank: int) -> Factors:
        """Return the Kronecker factors of the Fisher over the observations, of this rank.

        Raises:
            ValueError, TypeError: as :func:`blip_rl.core.kronecker.kronecker_fisher`.
            FloatingPointError: a factor is not finite.
        """
        return kronecker_fisher(
            self.trunk,
            self.head,
            self.observations,
            rank=rank,
            expectation=expectation,
            preprocess=self.preprocess,
            generator=self.generator,
        )


def _check_finite(fisher: Mapping[str, Tensor]) -> None:
    for name, value in fisher.items():
        if not torch.isfinite(value).all():
            raise FloatingPointError(
                f"the Fisher of {name!r} is not finite: the gradients of the policy's log-probabilities diverged"
            )


Outputs = Callable[[int, Tensor], tuple[Any, Tensor]]
"""(number of a task learned earlier, counted from 1; its raw observations) → its policy as a torch Distribution and its
values, shape (batch,), from that task's own head over the trunk as it is now. Gradients reach the trunk, and a head
only if its task is the one being learned: when it comes back."""


@dataclass(frozen=True)
class MethodState:
    """State that a method keeps between tasks: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The network that a saved state belongs to.

    Attributes:
        trunk: The shared layers; the meta device, which allocates no memory, is enough.
        observation_space: Of raw observations.
        outputs: Outputs of each task's actor head, in the order in which the tasks are learned.
    """

    trunk: nn.Module
    observation_space: spaces.Space[Any]
    outputs: tuple[int, ...]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trunk's parameters by name."""
        return dict(self.trunk.named_parameters())


class Method:
    """Method without protection: every hook is a no-op. Subclasses override those they need.

    Class attributes:
        Settings: The pydantic model of the method's section in an agent recipe.
        interleaved: Whether all tasks are learned at once, a rollout of each in turn, instead of one after another.
        capturable: Whether the hooks of an optimizer step (``loss``, ``add_gradient``, ``after_step``) can be captured
            in a CUDA graph between ``start_task`` and ``end_task``: the same device operations on the same tensors,
            no control flow that depends on their values, no random numbers. The graph is replayed without calling them.
        tasks_setting: Setting that a recipe can leave out; it is then the number of tasks of the run.
        no_visits: Why tasks cannot come back with this method (``order``, ``cycles``); empty if they can.
        task_blind: Whether the method works without being told which task is played (``trunk.heads = "shared"``).
        distillable: Whether the method protects one trunk shared by all tasks, learned one after another, so that a
            task can be learned in a separate trunk and distilled into the shared one (``learning = "distil"``).
    """

    Settings: ClassVar[type[Settings]] = Settings
    interleaved: ClassVar[bool] = False
    capturable: ClassVar[bool] = False
    distillable: ClassVar[bool] = True
    tasks_setting: ClassVar[str] = ""
    no_visits: ClassVar[str] = ""
    task_blind: ClassVar[bool] = True

    task: int = 0
    """Number of the task being learned, counted from 1 in the order of first visits; set before ``start_task`` and
    ``resume_task``. 0: each task is new."""

    def __init__(self, **settings: Any) -> None:
        """Validate the settings.

        Raises:
            UserError: One or more are unknown or invalid; all at once.
        """
        valid, problems = checked(self.Settings, settings)
        if valid is None:
            lines = [problem.line() if problem.location else problem.text for problem in problems]
            raise RecipeError([f"{type(self).__name__}(…): {line}" for line in lines])
        self.settings = valid

    @property
    def samples_wanted(self) -> int:
        """Number of on-policy observations that ``end_task`` needs."""
        return 0

    @property
    def total_bits(self) -> int:
        """Bits of each weight, if the method freezes bits; else 0."""
        return 0

    @property
    def plays_with_state(self) -> bool:
        """Whether :meth:`playing` needs the saved state."""
        return type(self).playing is not Method.playing

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Raise UserError, before any training, if the method cannot consolidate a task."""

    def start_task(self, trunk: nn.Module) -> None:
        """Prepare for a task; called before its first optimizer step."""

    def resume_task(self, trunk: nn.Module) -> None:
        """Resume a task in its middle, after :meth:`load_state`; results equal those without interruption."""
        self.start_task(trunk)

    def at_progress(self, done: float) -> None:
        """Act on progress within a task; called before each update with the share of steps taken, at most 1."""

    def schedule_remaining(self, remaining: float) -> float:
        """Map the remaining share of a task to the share passed to the learning-rate schedule.

        Called before each update, after :meth:`at_progress`.

        Args:
            remaining: Share of the task's steps not yet taken at the start of the update's rollout, 1 to 0.
        """
        return remaining

    def loss(self, outputs: Outputs) -> Tensor | None:
        """Return a term to add to the loss of one minibatch (a scalar), or None for none."""
        return None

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Change ``parameter.grad`` of a trunk parameter in place; called after backward, before gradient clipping."""

    def after_step(self) -> None:
        """Correct the trunk in place; called after each optimizer step."""

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Consolidate the task just learned.

        Returns:
            Metrics to log, by name.
        """
        return {}

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Set the trunk to the weights that play a task within the block; restore it bit for bit afterwards.

        Must work on any trunk of the same shape, also directly after :meth:`load_state`.

        Args:
            trunk: The shared layers.
            task: Number of the task, counted from 1; it may be the current task or a later one.
        """
        yield

    def frozen_bits(self) -> dict[str, Tensor]:
        """Return the frozen bits of each trunk parameter (uint8) by name; empty if the method freezes none."""
        return {}

    def state(self) -> MethodState:
        """Return the state to save in a checkpoint, as copies that later training does not change."""
        return MethodState()

    def state_tensors(self, network: Network) -> dict[str, TensorLayout]:
        """Return the layout of every tensor that :meth:`state` may hold for this network, by name.

        A checkpoint is compared with it before any of its tensors is read: a tensor that is not listed here, or that
        differs from its layout, is refused.
        """
        return {}

    def describe(self, state: MethodState) -> list[str]:
        """Describe a state that :meth:`state` returned, in lines for people; a checkpoint saves them beside it."""
        return []

    def kept_bytes(self, network: Network) -> int:
        """Return the most bytes that :meth:`state` will hold after all tasks of the network, approximately."""
        return sum(layout.nbytes for layout in self.state_tensors(network).values())

    def load_state(self, state: MethodState) -> None:
        """Restore what :meth:`state` returned; raise ValueError if it belongs to another method."""
        if state.tensors or state.values:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds some of it")


def parameter_bytes(trunk: nn.Module) -> int:
    """Return the bytes of all parameters of a trunk."""
    return sum(int(parameter.nbytes) for parameter in trunk.parameters())
