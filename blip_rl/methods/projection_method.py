"""Base class of methods that project updates out of the input space of earlier tasks.

Each layer keeps an orthonormal basis of most of the input space of all earlier tasks; its bias is frozen after the
first task. The equations are in :mod:`blip_rl.core.subspace`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.core import saved, subspace
from blip_rl.core.layers import protected_layers
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network
from blip_rl.setting_types import Fraction, PositiveInt, Settings


class ProjectionSettings(Settings):
    """How much of a task's input space is protected, and what is projected."""

    threshold: Annotated[Fraction, Field(gt=0.0, lt=1.0)] = 0.995
    """Share of the energy of each layer's inputs that the basis must explain."""
    samples: PositiveInt = 2_000
    """Observations of a finished task that the basis is computed from; for convolutions, all of their patches."""
    project: subspace.Projected = "both"
    """What is projected: gradients, the optimizer's steps, or both. Adam rescales each coordinate, so its step is not
    orthogonal to the basis even if the gradient is: ``gradient`` alone protects less."""


class ProjectionMethod(Method):
    """Projects updates onto the orthogonal complement of the inputs of earlier tasks, or scales them down."""

    capturable: ClassVar[bool] = True
    Settings = ProjectionSettings
    settings: ProjectionSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._bases: dict[str, Tensor] = {}  # by weight name; empty before the first task has ended
        self._importance: dict[str, Tensor] = {}  # λ of the bases' directions; empty if all are 1
        self._guard: subspace.Guard | None = None

    @property
    def samples_wanted(self) -> int:
        """Number of on-policy observations that the basis is computed from."""
        return self.settings.samples

    def start_task(self, trunk: nn.Module) -> None:
        """Start the projection, if there is a basis.

        Raises:
            ValueError: the basis belongs to another network.
            TypeError: the trunk has parameters of layers that are neither linear nor a 2-D convolution.
        """
        protected_layers(trunk)
        guarded = (self._bases, self._importance, self.settings.project)
        self._guard = subspace.Guard(trunk, *guarded) if self._bases else None

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Project the gradient."""
        if self._guard is not None:
            self._guard.gradient(name, parameter)

    def after_step(self) -> None:
        """Project the step."""
        if self._guard is not None:
            self._guard.step()

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the directions that the task needs to each basis."""
        self._add_directions(finished)
        return {f"held/{name.removesuffix('.weight')}": self._held(name) for name in self._bases}

    def _add_directions(self, finished: FinishedTask) -> dict[str, Tensor]:
        """Extend each basis; return the inputs of each layer, by weight name."""
        self._guard = None  # frees its copy of the weights before the inputs take memory
        inputs = subspace.layer_inputs(finished.trunk, finished.observations, finished.preprocess)
        for name, layer in protected_layers(finished.trunk).items():
            basis = self._bases.get(name, subspace.empty_basis(layer.weight)).to(layer.weight.device)
            fresh = subspace.new_directions(inputs[name], basis, self.settings.threshold)
            self._bases[name] = subspace.extended(basis, fresh)
        return inputs

    def _held(self, name: str) -> float:
        """Return the protected share of a layer's input space."""
        return self._bases[name].shape[1] / len(self._bases[name])

    def state(self) -> MethodState:
        """Return the basis of every layer."""
        return MethodState(saved.named(self._bases, "basis"))

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return one basis for each layer: (inputs, directions), with at most as many directions as inputs."""
        return subspace.basis_layouts(network.trunk)

    def describe(self, state: MethodState) -> list[str]:
        """Return how many of each layer's input directions are protected."""
        return subspace.describe_bases(*saved.split(state.tensors, "basis"))

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        (self._bases,) = saved.split(state.tensors, "basis")
        self._guard = None
