"""SGP, scaled gradient projection: as GPM, but updates along less important directions are only scaled down.

Saha & Roy, AAAI 2023 (arXiv 2302.01386). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
an orthonormal basis of most of the input space of all earlier tasks, and the importance λ of each direction: an update
along it is scaled by 1 − λ. Biases are frozen after the first task. State: 4 bytes × (d + 1) × k for a layer with d
inputs and k ≤ d directions; while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blip_rl.core import saved, subspace
from blip_rl.core.layers import protected_layers
from blip_rl.methods.base import FinishedTask, MethodState, Network
from blip_rl.methods.projection_method import ProjectionMethod, ProjectionSettings
from blip_rl.setting_types import NonNegativeFloat


class SgpSettings(ProjectionSettings):
    """How much of a task's input space is protected, how strongly, and what is projected."""

    scale: NonNegativeFloat = 25.0
    """α: with 0, a direction's importance is σ / max σ; as α grows, all importances approach 1 (GPM)."""
    project: subspace.Projected = "step"
    """What is scaled: gradients, the optimizer's steps, or both, which scales twice. Adam is invariant to the scale of
    the gradient, so ``gradient`` alone protects less."""


class Sgp(ProjectionMethod):
    """Scales updates down along the directions that are important to earlier tasks."""

    Settings = SgpSettings
    settings: SgpSettings

    def __init__(self, **settings: Any) -> None:
        """Pass the fields of :class:`SgpSettings` as keywords: ``Sgp(threshold=0.995, scale=25)``."""
        super().__init__(**settings)

    def _add_directions(self, finished: FinishedTask) -> dict[str, Tensor]:
        """Extend each basis, and update the importance of all directions."""
        inputs = super()._add_directions(finished)
        for name, basis in self._bases.items():
            earlier = self._importance.get(name, basis.new_zeros(0)).to(basis.device)
            task = subspace.importance(inputs[name], basis, self.settings.scale)
            self._importance[name] = subspace.accumulated(earlier, task)
        return inputs

    def _held(self, name: str) -> float:
        """Return the protected share of a layer's input space, with directions weighted by their importance."""
        return self._importance[name].sum().item() / len(self._bases[name])

    def state(self) -> MethodState:
        """Return the basis of every layer and the importance of its directions."""
        return MethodState(super().state().tensors | saved.named(self._importance, "importance"))

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return for each layer one basis, as GPM's, and one vector with the importance of each direction."""
        importance = {
            f"{name}.importance": saved.TensorLayout(torch.float32, (layer.weight[0].numel(),), bounded=(0,))
            for name, layer in protected_layers(network.trunk).items()
        }
        return super().state_tensors(network) | importance

    def describe(self, state: MethodState) -> list[str]:
        """Return how many of each layer's input directions are protected."""
        bases, _ = saved.split(state.tensors, "basis", "importance")
        return subspace.describe_bases(bases)

    def load_state(self, state: MethodState) -> None:
        """Load a saved state; the next ``start_task`` checks it against the trunk."""
        self._bases, self._importance = saved.split(state.tensors, "basis", "importance")
        self._guard = None
