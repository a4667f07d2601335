"""Base classes of methods that use the Fisher information of a finished task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.backward_passes import Expectation
from blip_rl.core.penalty import QuadraticPenalty
from blip_rl.errors import UserError
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network
from blip_rl.setting_types import NonNegativeFloat, PositiveInt, Settings

_TRACE = "first_fisher_trace"


class FisherSettings(Settings):
    """Settings of the Fisher estimate."""

    fisher_samples: PositiveInt = 2_000
    """Observations of a finished task that the Fisher information is computed from."""
    fisher_expectation: Expectation = "sampled"
    """Expectation over actions: ``sampled`` draws one action per state, ``exact`` sums over all (Discrete actions
    only)."""
    fisher_scale: Literal["own", "equal"] = "own"
    """``own``: each task's Fisher as it is. ``equal``: scaled so that its trace equals that of the first task, since a
    task with a confident policy has a small Fisher and would be protected little."""


class FisherMethod(Method):
    """Method that uses the Fisher information of a task at its end; subclasses call :meth:`fisher_of`."""

    Settings = FisherSettings
    settings: FisherSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._first_trace: float | None = None

    @property
    def samples_wanted(self) -> int:
        """Number of on-policy observations for the Fisher estimate."""
        return self.settings.fisher_samples

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Check that an exact expectation is asked for with Discrete actions only."""
        if self.settings.fisher_expectation == "exact" and not isinstance(action_space, spaces.Discrete):
            raise UserError(
                f"task {name!r} has {type(action_space).__name__} actions: method.fisher_expectation = 'exact' needs a "
                "Discrete action space (use 'sampled')"
            )

    def fisher_of(self, finished: FinishedTask) -> dict[str, Tensor]:
        """Return the diagonal Fisher of a finished task, by parameter name, scaled as ``fisher_scale`` says."""
        fisher = self._measured(finished)
        factor = self.scale_of(sum(value.sum().item() for value in fisher.values()))
        return fisher if factor == 1 else {name: value * factor for name, value in fisher.items()}

    def scale_of(self, trace: float) -> float:
        """Return the factor of a finished task's Fisher that ``fisher_scale`` asks for.

        A task without any information is not scaled, and does not count as the first.
        """
        if self.settings.fisher_scale == "own" or not trace:
            return 1.0
        if self._first_trace is None:
            self._first_trace = trace
        return self._first_trace / trace

    def _measured(self, finished: FinishedTask) -> dict[str, Tensor]:
        return finished.fisher(self.settings.fisher_expectation)

    def scale_values(self) -> dict[str, Any]:
        """Return the values for :meth:`state` that :meth:`load_scale` restores; empty without scaling."""
        return {} if self._first_trace is None else {_TRACE: self._first_trace}

    def load_scale(self, state: MethodState) -> None:
        """Restore the scale from a saved state."""
        trace = state.values.get(_TRACE)
        self._first_trace = None if trace is None else float(trace)


class AnchoredMethod(FisherMethod):
    """Method that keeps the Fisher of all earlier tasks around an anchor, the weights after the newest one.

    Both are in a :class:`~blip_rl.core.penalty.QuadraticPenalty`; a subclass sets a new one in ``end_task``, starting
    from :meth:`earlier`, and uses it as a penalty or as a bound.

    Attributes:
        kinds: Tensors that the penalty keeps for each parameter, 4 bytes each.
        tasks_seen: Number of consolidated tasks.
    """

    kinds: ClassVar[tuple[str, ...]] = ("fisher", "anchor")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.tasks_seen = 0
        self._penalty = QuadraticPenalty()  # over the strength, if the method has one

    def start_task(self, trunk: nn.Module) -> None:
        """Move the penalty to the trunk's device and memory layout.

        Raises:
            ValueError: it belongs to another network.
        """
        if self.tasks_seen:
            self._penalty = self._penalty.fitted(dict(trunk.named_parameters()))

    def earlier(self, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """Return the penalty of all earlier tasks; before the first, one that is 0 everywhere."""
        return self._penalty if self.tasks_seen else QuadraticPenalty.flat(weights, *self.kinds)

    def state(self) -> MethodState:
        """Return the penalty's tensors, its value at the anchor (``height``), and the number of tasks seen."""
        values = {"tasks_seen": self.tasks_seen, "height": self._penalty.height, **self.scale_values()}
        return MethodState(self._penalty.tensors(), values)

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return the tensors of each parameter."""
        return saved.layouts(network.parameters(), **dict.fromkeys(self.kinds, torch.float32))

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        height = float(state.values.get("height", 0.0))  # fisher_budget saved none in early versions
        self._penalty = QuadraticPenalty.from_saved(state.tensors, *self.kinds, height=height)
        self.tasks_seen = int(state.values["tasks_seen"])
        self.load_scale(state)


class PenaltySettings(FisherSettings):
    """Settings of a penalty ½ · strength · Σ F (θ − θ*)²."""

    strength: NonNegativeFloat = 80.6
    """λ of the penalty, for the true Fisher: the mean of squared gradients of single samples."""
    importance: Literal["fisher", "reversed"] = "fisher"
    """Weight importance F: ``fisher``, the Fisher information; ``reversed``, EWC-DR's importance with reversed logits,
    which does not vanish as a policy becomes deterministic (Discrete actions only)."""


class PenaltyMethod(AnchoredMethod):
    """Method that adds a quadratic penalty around earlier weights to the loss."""

    capturable: ClassVar[bool] = True
    Settings = PenaltySettings
    settings: PenaltySettings

    def check_task(self, name: str, action_space: spaces.Space[Any]) -> None:
        """Check that the action space is Discrete if the settings require it."""
        super().check_task(name, action_space)
        if self.settings.importance == "reversed" and not isinstance(action_space, spaces.Discrete):
            raise UserError(
                f"task {name!r} has {type(action_space).__name__} actions: method.importance = 'reversed' needs a "
                "Discrete action space, whose policy has logits (use 'fisher')"
            )

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add the penalty's gradient."""
        if self.tasks_seen and parameter.grad is not None:
            parameter.grad.add_(self._penalty.gradient(name, parameter), alpha=self.settings.strength)

    def _measured(self, finished: FinishedTask) -> dict[str, Tensor]:
        return finished.fisher(self.settings.fisher_expectation, self.settings.importance == "reversed")


def mean_entry(tensors: dict[str, Tensor]) -> float:
    """Return the mean over all entries of all tensors."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).mean().item()
