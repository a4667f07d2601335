"""A quadratic penalty on the distance of weights from an anchor, of constant size for any number of tasks.

With an anchor θ* for every weight i,

    P(θ) = height + Σ_i (slope_i d_i + ½ F_i d_i²),    d = θ − θ*,    ∂P/∂θ = F d + slope.

A sum of penalties ½ Σ_k F_k (θ − θ*_k)² has this form again, so any number of tasks is represented exactly; the slope
is 0 if they share one anchor. Keeping the gradient as F·θ − Σ_k F_k θ*_k instead would suffer from cancellation: for
weights of 0.3 with anchors 0.001 apart its error is 5e-5 of the largest gradient, that of this form below 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from blip_rl.core import saved

Tensors = dict[str, Float[Tensor, " ..."]]


@dataclass(frozen=True)
class QuadraticPenalty:
    """The penalty P above, immutable. Tensors are by parameter name, each shaped like its parameter.

    Attributes:
        anchor: θ*, the expansion point.
        fisher: F; None: 1 everywhere.
        slope: ∂P/∂θ at the anchor; None: 0 everywhere.
        height: P at the anchor.
    """

    anchor: Tensors = field(default_factory=dict)
    fisher: Tensors | None = None
    slope: Tensors | None = None
    height: float = 0.0

    @classmethod
    def flat(cls, weights: Mapping[str, Tensor], *kinds: str) -> QuadraticPenalty:
        """Build the penalty that is 0 everywhere (½ d² without the kind ``fisher``), with anchor 0.

        Args:
            weights: Parameters by name; determine shapes, device and memory layout.
            kinds: Tensors to keep: ``fisher``, ``anchor``, ``slope``.
        """
        zeros = {kind: {name: torch.zeros_like(w) for name, w in weights.items()} for kind in kinds}
        return cls(**zeros, height=0.0)

    @classmethod
    def from_saved(cls, tensors: Mapping[str, Tensor], *kinds: str, height: float = 0.0) -> QuadraticPenalty:
        """Build a penalty from the result of :meth:`tensors`, not yet checked against a network.

        Raises:
            ValueError: a tensor is of none of these kinds.
        """
        return cls(**dict(zip(kinds, saved.split(tensors, *kinds), strict=True)), height=height)

    def tensors(self) -> Tensors:
        """Copy all tensors under the names of a saved state: ``<parameter>.fisher``, ``.anchor`` and ``.slope``."""
        return {key: copy for kind, kept in self._kinds() for key, copy in saved.named(kept, kind).items()}

    def fitted(self, parameters: Mapping[str, Tensor]) -> QuadraticPenalty:
        """Copy the penalty to the device and memory layout of the parameters.

        Raises:
            ValueError: it belongs to another network.
        """
        return QuadraticPenalty(
            **{kind: saved.fitted(kept, parameters, kind) for kind, kept in self._kinds()}, height=self.height
        )

    def gradient(self, name: str, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Compute ∂P/∂θ of one parameter: F d + slope."""
        gradient = weight - self.anchor[name]
        if self.fisher is not None:
            gradient.mul_(self.fisher[name])
        if self.slope is not None:
            gradient.add_(self.slope[name])
        return gradient

    def at(self, weights: Mapping[str, Tensor]) -> float:
        """Compute P(θ)."""
        return self.height + sum(self._rise(name, weight) for name, weight in weights.items())

    def recentre(self, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """Return the same function with these weights as its anchor."""
        # P is quadratic: value, gradient and F at any one point determine it, so no approximation is made here.
        slope = {name: self.gradient(name, weight) for name, weight in weights.items()}
        return QuadraticPenalty(_copies(weights), self.fisher, slope, self.at(weights))

    def reset(self, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """Return the penalty with the same F whose minimum is at these weights, where it is 0."""
        return QuadraticPenalty(_copies(weights), self.fisher)

    def plus(self, fisher: Mapping[str, Tensor], keep: float = 1.0) -> QuadraticPenalty:
        """Add ½ Σ F_k d² around the same anchor: F ← keep · F + F_k.

        Raises:
            ValueError: the penalty has no Fisher to add to.
        """
        if self.fisher is None:
            raise ValueError("the penalty has no Fisher (F = 1 everywhere): create it with the kind 'fisher'")
        total = {name: (earlier * keep).add_(fisher[name]) for name, earlier in self.fisher.items()}
        return QuadraticPenalty(self.anchor, total, self.slope, self.height)

    def _rise(self, name: str, weight: Float[Tensor, " ..."]) -> float:
        """Return one parameter's part of P − height: Σ d (slope + ½ F d) = ½ Σ d (∂P(θ) + ∂P(θ*))."""
        anchor = self.anchor[name]
        # By gradients, because gradient() alone knows which of F and slope are kept.
        gradients = self.gradient(name, weight) + self.gradient(name, anchor)
        return 0.5 * float(torch.sum((weight - anchor) * gradients))

    def _kinds(self) -> Iterator[tuple[str, Tensors]]:
        for kind, kept in (("fisher", self.fisher), ("anchor", self.anchor), ("slope", self.slope)):
            if kept is not None:
                yield kind, kept


def _copies(weights: Mapping[str, Tensor]) -> Tensors:
    return {name: weight.clone() for name, weight in weights.items()}
