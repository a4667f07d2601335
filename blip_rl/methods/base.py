"""How earlier tasks are protected: the hooks that every method may override.

A method is one small class. Its life in a run, once for each task:

    start_task(trunk)
        for every update:         at_progress(done), schedule_remaining(remaining)
        for every optimizer step: loss(outputs), add_gradient(name, parameter)…, after_step()
    end_task(finished)

and whenever a task is scored, ``playing(trunk, task)`` is around it. A method never sees the agent, only the trunk
whose parameters it protects and, at the end, the finished task's policy. The empty method is fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.config import PositiveInt, Settings
from blip_rl.core.fisher import Expectation, diagonal_fisher
from blip_rl.core.saved import TensorLayout
from blip_rl.errors import UserError


@dataclass(frozen=True)
class FinishedTask:
    """What a method sees of a task that has just been learned.

    Attributes:
        trunk: The shared layers, as ``start_task`` got them.
        head: Trunk output → this task's policy: logits or a torch Distribution.
        observations: (samples, ...) from fresh rollouts of the learned policy; empty if the method asked for none.
        preprocess: Turns raw observations into what the trunk takes.
        generator: Source of every random draw the method makes.
        critic: Trunk output → values, shape (samples,); None where there is no critic to ask.
    """

    trunk: nn.Module
    head: Callable[[Tensor], Any]
    observations: Tensor
    preprocess: Callable[[Tensor], Tensor]
    generator: torch.Generator
    critic: Callable[[Tensor], Tensor] | None = None

    def weights(self) -> dict[str, Tensor]:
        """The trunk's parameters by name, as they are now, without gradients: the tensors themselves, no copies."""
        return {name: parameter.detach() for name, parameter in self.trunk.named_parameters()}

    def fisher(self, expectation: Expectation) -> dict[str, Tensor]:
        """The diagonal Fisher over the observations, by parameter name: :func:`blip_rl.core.fisher.diagonal_fisher`.

        Raises:
            ValueError, TypeError: as there.
            FloatingPointError: it is not finite.
        """
        fisher = diagonal_fisher(
            self.trunk,
            self.head,
            self.observations,
            expectation=expectation,
            preprocess=self.preprocess,
            generator=self.generator,
        )
        for name, value in fisher.items():
            if not torch.isfinite(value).all():
                raise FloatingPointError(
                    f"the Fisher of {name!r} is not finite: the policy's log-probabilities blew up"
                )
        return fisher


Outputs = Callable[[int, Tensor], tuple[Any, Tensor]]
"""(number of a task learned earlier, counted from 1; its raw observations) → its policy as a torch Distribution and its
values, shape (batch,), from that task's own head over the trunk as it is now. Gradients reach the trunk alone."""


@dataclass(frozen=True)
class MethodState:
    """Everything a method must remember between tasks: tensors by name, and plain JSON values."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The network that a saved state belongs to.

    Attributes:
        trunk: The shared layers; they may be on the meta device, which has shapes but no memory.
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
    """Protects nothing: every hook is a no-op. Subclasses override what they need.

    Class attributes:
        Settings: The pydantic model of the method's section in an agent recipe.
        interleaved: Whether all tasks are learned at once, a rollout of each in turn, instead of one after another.
        capturable: Whether, from ``start_task`` to ``end_task``, the hooks of every optimizer step (``loss``,
            ``add_gradient``, ``after_step``) do the same device operations on the same tensors, look into none of them
            and draw no random numbers. Such steps may be recorded once and replayed, without asking the hooks again.
        distillable: Whether it protects one trunk that all tasks share, task after task, so that a task can be learned
            elsewhere and distilled into that trunk (``learning = "distil"``).
    """

    Settings: ClassVar[type[Settings]] = Settings
    interleaved: ClassVar[bool] = False
    capturable: ClassVar[bool] = False
    distillable: ClassVar[bool] = True

    def __init__(self, **settings: Any) -> None:
        """Validate the settings; a wrong one is a ``pydantic.ValidationError``, which is a ``ValueError``."""
        self.settings = self.Settings(**settings)

    @property
    def samples_wanted(self) -> int:
        """How many on-policy observations ``end_task`` needs."""
        return 0

    @property
    def total_bits(self) -> int:
        """Bits a weight has, for a method that freezes bits."""
        return 0

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Refuse a task that the method could not consolidate, before any training.

        Raises:
            UserError: with the task, the rule and the fix.
        """

    def start_task(self, trunk: nn.Module) -> None:
        """Prepare for training: called before the first optimizer step of a task."""

    def resume_task(self, trunk: nn.Module) -> None:
        """Prepare for training in the middle of a task, after :meth:`load_state`: as if it had never been left."""
        self.start_task(trunk)

    def at_progress(self, done: float) -> None:
        """Act at a point within the task: called before each update with the share of its steps taken, up to 1."""

    def schedule_remaining(self, remaining: float) -> float:
        """Map the share of a task that remains to the one that the learning-rate schedule is asked for.

        Called before each update, after :meth:`at_progress`.

        Args:
            remaining: Share of the task's steps that had not been taken when the update's rollout began, 1 to 0.
        """
        return remaining

    def loss(self, outputs: Outputs) -> Tensor | None:
        """Return a term to add to the loss of one minibatch (a scalar), or None for none."""
        return None

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Change ``parameter.grad`` of one trunk parameter, after backward and before the norm is clipped."""

    def after_step(self) -> None:
        """Correct the trunk in place after each optimizer step."""

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Consolidate the task just learned.

        Returns:
            Figures worth logging, by name.
        """
        return {}

    @contextmanager
    def playing(self, trunk: nn.Module, task: int) -> Iterator[None]:
        """Let the trunk be, within the block, what it must be to play a task; afterwards it is as it was, to the bit.

        Must work on any trunk of the same shape, also right after :meth:`load_state`.

        Args:
            trunk: The shared layers.
            task: Number of the task, counted from 1; the one being learned or one not learned yet may be asked for.
        """
        yield

    def frozen_bits(self) -> dict[str, Tensor]:
        """Frozen bits per trunk parameter (uint8), by parameter name; empty if the method freezes none."""
        return {}

    def state(self) -> MethodState:
        """What to save with a checkpoint."""
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
        """Take back what :meth:`state` returned."""
        if state.tensors or state.values:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds some of it")


class FisherSettings(Settings):
    """How a method measures a task's Fisher."""

    fisher_samples: PositiveInt = 2_000
    fisher_expectation: Expectation = "sampled"


class FisherMethod(Method):
    """A method that calls :meth:`FinishedTask.fisher` at the end of a task, with what its settings say."""

    Settings = FisherSettings
    settings: FisherSettings

    @property
    def samples_wanted(self) -> int:
        """How many on-policy observations the Fisher is taken over."""
        return self.settings.fisher_samples

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Refuse an exact expectation over actions that cannot be enumerated."""
        if self.settings.fisher_expectation == "exact" and not isinstance(action_space, spaces.Discrete):
            raise UserError(
                f"task {name!r} has {type(action_space).__name__} actions: method.fisher_expectation = 'exact' needs a "
                "Discrete action space (use 'sampled')"
            )


def parameter_bytes(trunk: nn.Module) -> int:
    """Bytes of all parameters of a trunk."""
    return sum(int(parameter.nbytes) for parameter in trunk.parameters())


def mean_entry(tensors: dict[str, Tensor]) -> float:
    """Mean over all entries of all tensors."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).mean().item()


@contextmanager
def attached(
    method: Method, trunk: nn.Module, optimizer: torch.optim.Optimizer, *, resume: bool = False
) -> Iterator[Method]:
    """Attach a method to a trunk and its optimizer for the length of one task; always detach, also after an error.

    Args:
        method: What protects the trunk.
        trunk: The shared layers.
        optimizer: Steps the trunk's parameters.
        resume: Whether the task goes on in its middle, from a state that was loaded.
    """
    if resume:
        _resume(method, trunk)
    else:
        method.start_task(trunk)
    handles: list[Any] = [optimizer.register_step_post_hook(lambda *_: method.after_step())]
    if type(method).add_gradient is not Method.add_gradient:
        # Post-accumulate hooks fire inside backward(): before the norm is clipped, with any training loop.
        handles += [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p, name=name: method.add_gradient(name, p)
            )
            for name, parameter in trunk.named_parameters()
        ]
    try:
        yield method
    finally:
        for handle in handles:
            handle.remove()


def _resume(method: Method, trunk: nn.Module) -> None:
    """Let a method go on in the middle of a task; what it was given may come from a damaged file."""
    try:
        method.resume_task(trunk)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the saved state of {type(method).__name__} does not fit this network: {error}") from error
