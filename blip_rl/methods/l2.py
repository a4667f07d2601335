"""L2: every weight alike is pulled back to where the previous task left it.

The penalty ½ · strength · Σ_i (θ_i − θ*_i)² is EWC's with a Fisher of 1 everywhere and one anchor, the baseline of
Kirkpatrick et al., PNAS 2017 (arXiv 1612.00796), figure 2. 4 bytes per trunk parameter, whatever the number of tasks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blip_rl.config import NonNegativeFloat, Settings
from blip_rl.methods.base import FinishedTask, Method, MethodState

_KIND = ".anchor"


class L2Settings(Settings):
    """How hard the pull is, in units of loss per squared distance."""

    strength: NonNegativeFloat = 10.0


class L2(Method):
    """A quadratic penalty around the weights of the newest task, the same for every weight."""

    Settings = L2Settings
    settings: L2Settings

    def __init__(self, **settings: Any) -> None:
        """Take the fields of :class:`L2Settings` as keywords: ``L2(strength=10)``."""
        super().__init__(**settings)
        self._anchor: dict[str, Tensor] = {}

    def start_task(self, trunk: nn.Module) -> None:
        """Bring the anchor to the trunk's device and layout.

        Raises:
            ValueError: it belongs to another network.
        """
        if self._anchor:
            parameters = dict(trunk.named_parameters())
            _check(self._anchor, parameters)
            self._anchor = {
                name: torch.empty_like(p, requires_grad=False).copy_(self._anchor[name])
                for name, p in parameters.items()
            }

    @torch.no_grad()
    def add_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """∂penalty/∂θ = strength · (θ − θ*)."""
        if self._anchor and parameter.grad is not None:
            parameter.grad.add_(parameter - self._anchor[name], alpha=self.settings.strength)

    def end_task(self, finished: FinishedTask) -> dict[str, float]:
        """Remember the weights as they are."""
        weights = {name: p.detach() for name, p in finished.trunk.named_parameters()}
        squares = [(weights[name] - anchor).square().sum().item() for name, anchor in self._anchor.items()]
        self._anchor = {name: weight.clone() for name, weight in weights.items()}
        return {"penalty": 0.5 * self.settings.strength * sum(squares)}

    def state(self) -> MethodState:
        """The anchor; nothing before the first task has ended."""
        return MethodState({f"{name}{_KIND}": anchor.clone() for name, anchor in self._anchor.items()})

    def load_state(self, state: MethodState) -> None:
        """Take a saved state; the next ``start_task`` checks it against the trunk."""
        self._anchor = {key.removesuffix(_KIND): tensor for key, tensor in state.tensors.items()}


def _check(anchor: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    if unknown := [name for name in anchor if name not in parameters]:
        raise ValueError(f"state for {unknown[0]!r}, which this trunk does not have: it belongs to another network")
    for name, parameter in parameters.items():
        if name not in anchor:
            raise ValueError(f"the saved state has no '{name}{_KIND}': it belongs to another network")
        if anchor[name].shape != parameter.shape:
            raise ValueError(
                f"'{name}{_KIND}' is {tuple(anchor[name].shape)}, expected {tuple(parameter.shape)}: another network's "
                "state"
            )
