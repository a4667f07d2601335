"""A quadratic penalty on how far weights have moved: one parabola, whatever the number of tasks it remembers.

Around an anchor θ*, one for every weight i,

    P(θ) = height + Σ_i (slope_i d_i + ½ F_i d_i²),    d = θ − θ*,    ∂P/∂θ = F d + slope.

A sum of parabolas ½ Σ_k F_k (θ − θ*_k)² is again one, so this form holds any number of them exactly; its slope is 0
where they share one anchor. Two sums would do as well, as F·θ − Σ_k F_k θ*_k, but that is the small difference of
large numbers: where weights of 0.3 have their anchors 0.001 apart, it is off by 5e-5 of the largest gradient, and this
form by less than 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from blip_rl.core import saved

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class QuadraticPenalty:
    """P as above; nothing is ever changed in place. Tensors are by parameter name and shaped like the parameter.

    Attributes:
        anchor: θ*, the weights it is written around.
        fisher: F; None for 1 everywhere.
        slope: ∂P/∂θ at the anchor; None for 0 everywhere.
        height: P at the anchor.
    """

    anchor: Tensors = field(default_factory=dict)
    fisher: Tensors | None = None
    slope: Tensors | None = None
    height: float = 0.0

    @classmethod
    def flat(cls, weights: Mapping[str, Tensor], *kinds: str) -> Self:
        """The parabola that is 0 everywhere, or ½ d² without a kind ``fisher``; its anchor is 0.

        Args:
            weights: By name; give shape, device and memory layout.
            kinds: Which of ``fisher``, ``anchor`` and ``slope`` it keeps.
        """
        zeros = {kind: {name: torch.zeros_like(w) for name, w in weights.items()} for kind in kinds}
        return cls(**zeros, height=0.0)

    @classmethod
    def from_saved(cls, tensors: Mapping[str, Tensor], *kinds: str, height: float = 0.0) -> Self:
        """What :meth:`tensors` returned, not yet checked against a network.

        Raises:
            ValueError: a tensor is of none of these kinds.
        """
        return cls(**dict(zip(kinds, saved.split(tensors, *kinds), strict=True)), height=height)

    def tensors(self) -> Tensors:
        """Copies of all it keeps, as a state saves them: ``<parameter>.fisher``, ``.anchor`` and ``.slope``."""
        return {key: copy for kind, kept in self._kinds() for key, copy in saved.named(kept, kind).items()}

    def fitted(self, parameters: Mapping[str, Tensor]) -> QuadraticPenalty:
        """The same on the device and in the memory layout of the parameters.

        Raises:
            ValueError: it is another network's.
        """
        return QuadraticPenalty(
            **{kind: saved.fitted(kept, parameters, kind) for kind, kept in self._kinds()}, height=self.height
        )

    def gradient(self, name: str, weight: Tensor) -> Tensor:
        """∂P/∂θ of one parameter: F d + slope."""
        gradient = weight - self.anchor[name]
        if self.fisher is not None:
            gradient.mul_(self.fisher[name])
        if self.slope is not None:
            gradient.add_(self.slope[name])
        return gradient

    def at(self, weights: Mapping[str, Tensor]) -> float:
        """P(θ)."""
        return self.height + sum(self._rise(name, weight) for name, weight in weights.items())

    def recentre(self, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """The same function, written around these weights."""
        slope = {name: self.gradient(name, weight) for name, weight in weights.items()}
        return QuadraticPenalty(_copies(weights), self.fisher, slope, self.at(weights))

    def reset(self, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """Another function, as steep: 0 at these weights, where it has its minimum."""
        return QuadraticPenalty(_copies(weights), self.fisher)

    def plus(self, fisher: Mapping[str, Tensor], keep: float = 1.0) -> QuadraticPenalty:
        """The sum with ½ Σ F_k d² around the same anchor: F ← keep · F + F_k.

        Raises:
            ValueError: it keeps no Fisher to add to.
        """
        if self.fisher is None:
            raise ValueError("a parabola that keeps no Fisher has 1 everywhere: expected one made with a fisher")
        total = {name: (earlier * keep).add_(fisher[name]) for name, earlier in self.fisher.items()}
        return QuadraticPenalty(self.anchor, total, self.slope, self.height)

    def _rise(self, name: str, weight: Tensor) -> float:
        """Return one parameter's part of P − height: Σ d (slope + ½ F d) = ½ Σ d (∂P(θ) + ∂P(θ*))."""
        anchor = self.anchor[name]
        gradients = self.gradient(name, weight) + self.gradient(name, anchor)
        return 0.5 * float(torch.sum((weight - anchor) * gradients))

    def _kinds(self) -> Iterator[tuple[str, Tensors]]:
        for kind, kept in (("fisher", self.fisher), ("anchor", self.anchor), ("slope", self.slope)):
            if kept is not None:
                yield kind, kept


def _copies(weights: Mapping[str, Tensor]) -> Tensors:
    return {name: weight.clone() for name, weight in weights.items()}
