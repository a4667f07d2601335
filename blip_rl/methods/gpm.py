"""GPM, gradient projection memory: train only where no earlier task has inputs.

Saha, Garg & Roy, ICLR 2021 (arXiv 2103.09762). The equations are in :mod:`blip_rl.core.subspace`. Each layer keeps
orthonormal directions that span most of the inputs of all earlier tasks, and learns only at right angles to them; its
bias stands still after the first task. State: 4 bytes × d × k for a layer with d inputs and k directions, at most d;
while a later task is trained, also a copy of the weights.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from blip_rl.config import Fraction, PositiveInt, Settings
from blip_rl.core import saved, subspace
from blip_rl.methods.base import FinishedTask, Method, MethodState, Network


class GpmSettings(Settings):
    """How much of a task's inputs is protected, and at which point of the training."""

    threshold: Annotated[Fraction, Field(gt=0.0, lt=1.0)] = 0.995
    """Share of the energy of each layer's inputs that the directions carry."""
    samples: PositiveInt = 2_000
    """Observations of a finished task whose inputs are looked at; every patch of them for convolutions."""
    project: subspace.Projected = "both"
    """What is cleared: gradients, the optimizer's steps, or both. Adam's step leaves the directions its gradient kept
    to, so ``gradient`` alone protects less."""


class Gpm(Method):
    """Learns at right angles to the inputs of earlier tasks."""

    capturable: ClassVar[bool] = True
    Settings = GpmSettings
    settings: GpmSettings

    def __init__(self, **settings: Any) -> None:
        """Take the fields of :class:`GpmSettings` as keywords: ``Gpm(threshold=0.995)``."""
        super().__init__(**settings)
        self._bases: dict[str, Tensor] = {}  # by weight name; empty before the first task has ended
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
        self._guard = subspace.Guard(trunk, self._bases, {}, self.settings.project) if self._bases else None

    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Clear the gradient of the directions."""
        if self._guard is not None:
            self._guard.gradient(name, parameter)

    def after_step(self) -> None:
        """Clear the step of the directions."""
        if self._guard is not None:
            self._guard.step()

    @torch.no_grad()
    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Add the directions that the task needs."""
        self._guard = None
        inputs = subspace.layer_inputs(finished.trunk, finished.observations, finished.preprocess)
        for name, layer in subspace.protected_layers(finished.trunk).items():
            basis = self._bases.get(name, subspace.empty_basis(layer.weight)).to(layer.weight.device)
            fresh = subspace.new_directions(inputs[name], basis, self.settings.threshold)
            self._bases[name] = subspace.extended(basis, fresh)
        return {f"held/{name.removesuffix('.weight')}": b.shape[1] / len(b) for name, b in self._bases.items()}

    def state(self) -> MethodState:
        """The directions of every layer."""
        return MethodState(saved.named(self._bases, "basis"))

    def state_tensors(self, network: Network) -> dict[str, saved.TensorLayout]:
        """Return one basis for each layer: (inputs, directions), with at most as many directions as inputs."""
        return subspace.basis_layouts(network.trunk)

    def describe(self, state: MethodState) -> list[str]:
        """Return how many of each layer's input directions are protected."""
        return subspace.describe_bases(*saved.split(state.tensors, "basis"))

    def load_state(self, state: MethodState) -> None:
        """Take saved directions; the next ``start_task`` checks them against the trunk."""
        (self._bases,) = saved.split(state.tensors, "basis")
        self._guard = None
