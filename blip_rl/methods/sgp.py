"""SGP, scaled gradient projection: as GPM, but updates along less important directions are only scaled down.

Saha & Roy, AAAI 2023 (arXiv 2302.01386). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
an orthonormal basis of most of the input space of all earlier tasks, and the importance λ of each direction: an update
along it is scaled by 1 − λ. Biases are frozen after the first task. State: 4 bytes × (d + 1) × k for a layer with d
inputs and k ≤ d directions; while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.core import saved, subspace
from blip_rl.core.layers import protected_layers
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network
from blip_rl.setting_types import Fraction, NonNegativeFloat, PositiveInt, Settings


class SgpSettings(Settings):
    """How much of a task's input space is protected, how strongly, and what is projected."""

    threshold: Annotated[Fraction, Field(gt=0.0, lt=1.0)] = 0.995
    """Share of the energy of each layer's inputs that the basis must explain."""
    scale: NonNegativeFloat = 25.0
    """α: with 0, a direction's importance is σ / max σ; as α grows, all importances approach 1 (GPM)."""
    samples: PositiveInt = 2_000
    """Observations of a finished task that the basis is computed from; for convolutions, all of their patches."""
    project: subspace.Projected = "step"
    """What is scaled: gradients, the optimizer's steps, or both, which scales twice. Adam is invariant to the scale of
    the gradient, so ``gradient`` alone protects less."""


class Sgp(Method):
    """Scales updates down along the directions that are important to earlier tasks."""

    capturable: ClassVar[bool] = True
    Settings = SgpSettings
    settings: SgpSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`SgpSettings` as keywords: ``Sgp(threshold=0.995, scale=25)``."""
        super().__init__(**settings)
        self._bases: dict[str, Tensor] = {}  # by weight name; empty before the first task has ended
        self._importance: dict[str, Tensor] = {}
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
        """Scale the gradient along the directions."""
        if self._guard is not None:
            self._guard.gradient(name, parameter)

    def after_step(self) -> None:
        """Scale the step along the directions."""
        if self._guard is not None:
            self._guard.step()

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the directions that the task needs, and update the importance of all directions."""
        self._guard = None
        inputs = subspace.layer_inputs(finished.trunk, finished.observations, finished.preprocess)
        for name, layer in protected_layers(finished.trunk).items():
            basis = self._bases.get(name, subspace.empty_basis(layer.weight)).to(layer.weight.device)
            earlier = self._importance.get(name, basis.new_zeros(0)).to(basis.device)
            basis = subspace.extended(basis, subspace.new_directions(inputs[name], basis, self.settings.threshold))
            task = subspace.importance(inputs[name], basis, self.settings.scale)
            self._bases[name], self._importance[name] = basis, subspace.accumulated(earlier, task)
        return {f"held/{name.removesuffix('.weight')}": self._held(name) for name in self._bases}

    def _held(self, name: str) -> float:
        """Return the protected share of a layer's input space, with directions weighted by their importance."""
        return self._importance[name].sum().item() / len(self._bases[name])

    def state(self) -> MethodState:
        """Return the basis of every layer and the importance of its directions."""
        return MethodState(saved.named(self._bases, "basis") | saved.named(self._importance, "importance"))

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return for each layer one basis, as GPM's, and one vector with the importance of each direction."""
        importance = {
            f"{name}.importance": saved.TensorLayout(torch.float32, (layer.weight[0].numel(),), bounded=(0,))
            for name, layer in protected_layers(network.trunk).items()
        }
        return subspace.basis_layouts(network.trunk) | importance

    def describe(self, state: MethodState) -> list[str]:
        """Return how many of each layer's input directions are protected."""
        bases, _ = saved.split(state.tensors, "basis", "importance")
        return subspace.describe_bases(bases)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._bases, self._importance = saved.split(state.tensors, "basis", "importance")
        self._guard = None
