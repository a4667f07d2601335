"""Elastic weight consolidation: earlier tasks pull each weight back to where they left it, as hard as they need it.

Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796). Over the earlier tasks k, with weights θ*_k and Fishers F_k, the
penalty is ½ · strength · Σ_k Σ_i F_k,i (θ_i − θ*_k,i)². A sum of parabolas is a parabola, so three tensors hold every
earlier task exactly, 12 bytes per trunk parameter whatever the number of tasks: written around the newest anchor θ*_K,

    penalty / strength = height + Σ_i (slope_i d_i + ½ F_i d_i²),    d = θ − θ*_K,    F = Σ_k F_k,
    slope = Σ_k F_k (θ*_K − θ*_k).

Two sums would do, as F·θ − Σ_k F_k θ*_k, but that is the small difference of large numbers: where weights of 0.3 have
their anchors 0.001 apart, it is off by 5e-5 of the largest gradient, and this form by less than 1e-6.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from blip_rl.config import NonNegativeFloat, PositiveInt, Settings
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.errors import UserError
from blip_rl.methods.base import FinishedTask, Method, MethodState


class EwcSettings(Settings):
    """EWC's settings. ``strength`` goes with the TRUE Fisher, the mean of each sample's own squared gradient."""

    strength: NonNegativeFloat = 80.6
    fisher_samples: PositiveInt = 2_000
    fisher_expectation: Literal["sampled", "exact"] = "sampled"


class Ewc(Method):
    """A quadratic penalty around the weights of every earlier task."""

    Settings = EwcSettings
    settings: EwcSettings
    kinds: ClassVar[tuple[str, ...]] = ("fisher", "anchor", "slope")
    """What is remembered of each parameter."""

    def __init__(self, **settings: Any) -> None:
        """Take the fields of :class:`EwcSettings` as keywords: ``Ewc(strength=80.6)``."""
        super().__init__(**settings)
        self.tasks_seen = 0
        self._height = 0.0
        self._kept: dict[str, dict[str, Tensor]] = {}

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

    def start_task(self, trunk: nn.Module) -> None:
        """Bring what is remembered to the trunk's device and layout.

        Raises:
            ValueError: it belongs to another network.
        """
        if self.tasks_seen:
            self._kept = {kind: _laid_out(self._kept[kind], trunk, kind) for kind in self.kinds}

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Add the penalty's gradient."""
        if self.tasks_seen and parameter.grad is not None:
            parameter.grad.add_(self._pull(name, parameter), alpha=self.settings.strength)

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Measure the task's Fisher and remember it with the weights as they are."""
        fisher = diagonal_fisher(
            finished.trunk,
            finished.head,
            finished.observations,
            expectation=self.settings.fisher_expectation,
            preprocess=finished.preprocess,
            generator=finished.generator,
        )
        _check_finite(fisher)
        weights = {name: parameter.detach() for name, parameter in finished.trunk.named_parameters()}
        if not self.tasks_seen:
            self._kept = {kind: {name: torch.zeros_like(w) for name, w in weights.items()} for kind in self.kinds}
        penalty = self._height + sum(self._rise(name, weight) for name, weight in weights.items())
        self._remember(weights, fisher, penalty)
        self.tasks_seen += 1
        return {"penalty": self.settings.strength * penalty, "mean_fisher": _mean(fisher)}

    def _remember(self, weights: dict[str, Tensor], fisher: dict[str, Tensor], penalty: float) -> None:
        """Write the same parabola around the newest weights, and add the new task's, which has its minimum there."""
        self._height = penalty
        for name, weight in weights.items():
            self._kept["slope"][name] = self._pull(name, weight)
            self._kept["fisher"][name].add_(fisher[name])
            self._kept["anchor"][name].copy_(weight)

    def _pull(self, name: str, weight: Tensor) -> Tensor:
        """Gradient of penalty / strength: F d + slope."""
        return (weight - self._kept["anchor"][name]).mul_(self._kept["fisher"][name]).add_(self._kept["slope"][name])

    def _rise(self, name: str, weight: Tensor) -> float:
        """One parameter's part of penalty / strength above its value at the anchor: Σ d (slope + ½ F d)."""
        at_anchor = self._pull(name, self._kept["anchor"][name])
        distance = weight - self._kept["anchor"][name]
        return 0.5 * float(torch.sum(distance * (self._pull(name, weight) + at_anchor)))

    def state(self) -> MethodState:
        """What is kept of every parameter, the penalty's height at the anchor, and the number of tasks seen."""
        tensors = {
            f"{name}.{kind}": tensor.clone() for kind, kept in self._kept.items() for name, tensor in kept.items()
        }
        return MethodState(tensors, {"tasks_seen": self.tasks_seen, "height": self._height})

    def load_state(self, state: MethodState) -> None:
        """Take a saved state; the next ``start_task`` checks it against the trunk."""
        self._kept = {kind: _of_kind(state, kind) for kind in self.kinds} if state.tensors else {}
        self._height = float(state.values["height"])
        self.tasks_seen = int(state.values["tasks_seen"])


def _of_kind(state: MethodState, kind: str) -> dict[str, Tensor]:
    """One kind of saved tensor by parameter name."""
    suffix = f".{kind}"
    return {key.removesuffix(suffix): tensor for key, tensor in state.tensors.items() if key.endswith(suffix)}


def _laid_out(tensors: dict[str, Tensor], trunk: nn.Module, kind: str) -> dict[str, Tensor]:
    """The tensors on the device and in the layout of the trunk's parameters; refused if they are another network's."""
    parameters = dict(trunk.named_parameters())
    if unknown := [name for name in tensors if name not in parameters]:
        raise ValueError(f"state for {unknown[0]!r}, which this trunk does not have: it belongs to another network")
    for name, parameter in parameters.items():
        if name not in tensors:
            raise ValueError(f"the saved state has no '{name}.{kind}': it belongs to another network")
        if tensors[name].shape != parameter.shape:
            raise ValueError(
                f"'{name}.{kind}' is {tuple(tensors[name].shape)}, expected {tuple(parameter.shape)}: another "
                "network's state"
            )
    return {name: torch.empty_like(p, requires_grad=False).copy_(tensors[name]) for name, p in parameters.items()}


def _check_finite(fisher: dict[str, Tensor]) -> None:
    for name, value in fisher.items():
        if not torch.isfinite(value).all():
            raise FloatingPointError(f"the Fisher of {name!r} is not finite: the policy's log-probabilities blew up")


def _mean(tensors: dict[str, Tensor]) -> float:
    return torch.cat([tensor.flatten() for tensor in tensors.values()]).mean().item()
