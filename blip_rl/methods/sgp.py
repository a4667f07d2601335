"""SGP, scaled gradient projection: the less a direction matters to earlier tasks, the more it may still be trained.

Saha & Roy, AAAI 2023 (arXiv 2302.01386). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
orthonormal directions that span most of the inputs of all earlier tasks, and for each its importance λ: of a step along
it the share 1 − λ is let through. Biases stand still after the first task. State: 4 bytes × (d + 1) × k for a layer
with d inputs and k directions, at most d; while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.config import Fraction, NonNegativeFloat, PositiveInt, Settings
from blip_rl.core import saved, subspace
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network


class SgpSettings(Settings):
    """How much of a task's inputs is protected, how firmly, and at which point of the training."""

    threshold: Annotated[Fraction, Field(gt=0.0, lt=1.0)] = 0.995
    """Share of the energy of each layer's inputs that the directions carry."""
    scale: NonNegativeFloat = 25.0
    """α: at 0 a direction's importance is its σ / the largest; the larger α, the nearer to 1, where SGP is GPM."""
    samples: PositiveInt = 2_000
    """Observations of a finished task whose inputs are looked at; every patch of them for convolutions."""
    project: subspace.Projected = "step"
    """What is scaled: gradients, the optimizer's steps, or both, which scales twice. Adam gives a scaled gradient its
    size back, so ``gradient`` alone protects less."""


class Sgp(Method):
    """Learns little along the directions that matter much to earlier tasks."""

    capturable: ClassVar[bool] = True
    Settings = SgpSettings
    settings: SgpSettings

    def __init__(self, **settings: Any) -> None:
        """Take the fields of :class:`SgpSettings` as keywords: ``Sgp(threshold=0.995, scale=25)``."""
        super().__init__(**settings)
        self._bases: dict[str, Tensor] = {}  # by weight name; empty before the first task has ended
        self._importance: dict[str, Tensor] = {}
        self._guard: subspace.Guard | None = None

    @property
    def samples_wanted(self) -> int:
        """How many on-policy observations are looked at."""
        return self.settings.samples

    def start_task(self, trunk: nn.Module) -> None:
        """Guard the directions, if there are any yet.

        Raises:
            ValueError: they are another network's.
            TypeError: the trunk has parameters of layers that are neither linear nor a 2-D convolution.
        """
        subspace.protected_layers(trunk)
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
        """Add the directions that the task needs, and its importances to all."""
        self._guard = None
        inputs = subspace.layer_inputs(finished.trunk, finished.observations, finished.preprocess)
        for name, layer in subspace.protected_layers(finished.trunk).items():
            basis = self._bases.get(name, subspace.empty_basis(layer.weight)).to(layer.weight.device)
            earlier = self._importance.get(name, basis.new_zeros(0)).to(basis.device)
            basis = subspace.extended(basis, subspace.new_directions(inputs[name], basis, self.settings.threshold))
            task = subspace.importance(inputs[name], basis, self.settings.scale)
            self._bases[name], self._importance[name] = basis, subspace.accumulated(earlier, task)
        return {f"held/{name.removesuffix('.weight')}": self._held(name) for name in self._bases}

    def _held(self, name: str) -> float:
        """Share of a layer's inputs that is kept from training, directions counted by their importance."""
        return self._importance[name].sum().item() / len(self._bases[name])

    def state(self) -> MethodState:
        """The directions of every layer and their importances."""
        return MethodState(saved.named(self._bases, "basis") | saved.named(self._importance, "importance"))

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return for each layer one basis, as GPM's, and one vector with the importance of each direction."""
        importance = {
            f"{name}.importance": saved.TensorLayout(torch.float32, (layer.weight[0].numel(),), bounded=(0,))
            for name, layer in subspace.protected_layers(network.trunk).items()
        }
        return subspace.basis_layouts(network.trunk) | importance

    def describe(self, state: MethodState) -> list[str]:
        """Return how many of each layer's input directions are protected."""
        bases, _ = saved.split(state.tensors, "basis", "importance")
        return subspace.describe_bases(bases)

    def load_state(self, state: MethodState) -> None:
        """Take a saved state; the next ``start_task`` checks it against the trunk."""
        self._bases, self._importance = saved.split(state.tensors, "basis", "importance")
        self._guard = None
