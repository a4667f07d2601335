"""Kronecker-factored Fisher information of a policy, and the quadratic penalty of all earlier tasks that it gives.

The Fisher of a layer's weight is E[vec(g) vec(g)ᵀ], g the gradient of log π(a|s). For y = x Wᵀ it is g = δ xᵀ, so that
with x and δ taken as independent

    linear  F ≈ A ⊗ G,    A = E[x xᵀ],                    G = E[δ δᵀ]
    conv    F ≈ A ⊗ G,    A = mean over patches of x xᵀ,   G = E[Σ over positions of δ δᵀ]

(K-FAC: Martens & Grosse, ICML 2015, arXiv 1503.05671; convolutions: Grosse & Martens, ICML 2016, arXiv 1602.01407). For
D = W − W* the policy diverges, to second order, by ½ tr(Dᵀ G D A). Unlike the diagonal Fisher it knows which
combinations of inputs a task uses: changing a weight costs nothing in a direction that its inputs never take, however
active the single inputs are. A bias has the input 1: ½ dᵀ G d. Layers, and a layer's weight and bias, are independent.

A and G are kept as a matrix of low rank plus a multiple of the identity (:mod:`blip_rl.core.second_moment`): a task
uses few directions of a layer's inputs, and all others get the mean of what is left. The Fishers of n tasks are summed
as (Σ A) ⊗ (Σ G) / n, which is exact for equal tasks and has a constant size. Online structured Laplace approximation:
Ritter, Botev & Barber, NeurIPS 2018 (arXiv 1805.07810).

A unit that is dead or saturated in all of a task's states has δ = 0 and no Fisher information. A large change of its
weights can nevertheless reactivate it and change the policy, which the expansion to second order neglects. Damping,
G + share · tr(G) / outputs · I, gives such a unit this share of the mean information of all units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.backward_passes import Expectation, Head, backward_passes, supported_layers
from blip_rl.core.layers import patches
from blip_rl.core.second_moment import LowRank, SecondMoment

Tensors = dict[str, Float[Tensor, " ..."]]
KINDS = ("inputs", "inputs_rest", "outputs", "outputs_rest", "anchor")
"""Tensors of a saved state: R and ρ of A and of G for each weight, θ* of each parameter."""


@dataclass(frozen=True)
class Factors:
    """Kronecker factors by the name of each weight.

    Attributes:
        inputs: A, (d, d), d the number of weights of an output.
        outputs: G, (outputs, outputs), of the weight and of the layer's bias.
    """

    inputs: dict[str, LowRank] = field(default_factory=dict)
    outputs: dict[str, LowRank] = field(default_factory=dict)

    def trace(self) -> float:
        """Return the trace of the Fisher of all weights, without biases."""
        return sum(self.inputs[name].trace() * output.trace() for name, output in self.outputs.items())

    def scaled(self, factor: float) -> Factors:
        """Return the factors of ``factor`` times the Fisher."""
        return Factors(self.inputs, {name: output.scaled(factor) for name, output in self.outputs.items()})

    def damped(self, share: float) -> Factors:
        """Return the factors with ``share`` · tr(G) / outputs · I added to every G."""
        return Factors(self.inputs, {name: output.damped(share) for name, output in self.outputs.items()})

    def plus(self, other: Factors) -> Factors:
        """Return the sums of A and of G."""
        return Factors(
            {name: own.plus(other.inputs[name]) for name, own in self.inputs.items()},
            {name: own.plus(other.outputs[name]) for name, own in self.outputs.items()},
        )


def kronecker_fisher(
    trunk: nn.Module,
    head: Head,
    observations: Shaped[Tensor, "samples ..."],
    actions: Shaped[Tensor, "samples_of_actions ..."] | None = None,
    *,
    rank: int = 32,
    expectation: Expectation = "sampled",
    preprocess: Callable[[Tensor], Tensor] | None = None,
    chunk_samples: int = 64,
    generator: torch.Generator | None = None,
) -> Factors:
    """Compute A and G of every layer, of this rank; arguments as for :func:`blip_rl.core.fisher.diagonal_fisher`.

    Raises:
        ValueError: as :func:`blip_rl.core.fisher.diagonal_fisher`.
        TypeError: a layer is of another kind, or a convolution has groups.
        FloatingPointError: inputs or gradients are not finite.
    """
    check_layers(trunk)
    sums = _Sums(trunk)
    backward_passes(
        trunk,
        head,
        observations,
        sums,
        actions,
        expectation=expectation,
        preprocess=preprocess,
        chunk_samples=chunk_samples,
        generator=generator,
    )
    return sums.factors(len(observations), rank)


def check_layers(trunk: nn.Module) -> None:
    """Check that every layer's weight is one matrix.

    Raises:
        TypeError: a layer is neither linear nor a 2-D convolution, or a convolution has groups.
    """
    for name, layer in supported_layers(trunk).items():
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            raise TypeError(f"layer {name!r} has {layer.groups} groups: Kronecker factors need groups=1")


def layouts(parameters: Mapping[str, Tensor], rank: int) -> dict[str, saved.TensorLayout]:
    """Return the layouts of a saved state; meta tensors are enough."""
    found = {}
    for name, parameter in parameters.items():
        if parameter.dim() > 1:
            for kind, size in (("inputs", parameter[0].numel()), ("outputs", len(parameter))):
                found[f"{name}.{kind}"] = saved.TensorLayout(torch.float32, (rank, size))
                found[f"{name}.{kind}_rest"] = saved.TensorLayout(torch.float32, ())
        found[f"{name}.anchor"] = saved.TensorLayout(torch.float32, tuple(parameter.shape))
    return found


class _Sums:
    """Σ over samples of x xᵀ and of δ δᵀ, by layer."""

    def __init__(self, trunk: nn.Module) -> None:
        self._weights = {n: p for n, p in trunk.named_parameters() if p.dim() > 1}
        self._inputs = {name: SecondMoment() for name in self._weights}
        self._outputs = {name: SecondMoment() for name in self._weights}

    def add_inputs(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> None:
        """Add x xᵀ: the mean over positions for each sample."""
        rows = patches(layer, x).transpose(1, 2) if isinstance(layer, nn.Conv2d) else x
        positions = rows[0].numel() // rows.shape[-1]
        flat = rows.reshape(-1, rows.shape[-1]) / positions**0.5
        self._inputs[_weight(name)].add(flat.detach())

    def add_gradients(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, delta: Tensor) -> None:
        """Add δ δᵀ: the sum over positions for each sample."""
        flat = delta.transpose(0, 1).flatten(1).T if isinstance(layer, nn.Conv2d) else delta.flatten(0, -2)
        self._outputs[_weight(name)].add(flat.detach())

    def factors(self, samples: int, rank: int) -> Factors:
        """Return the means; 0 for a layer that the policy does not depend on."""
        inputs = {
            name: self._mean(self._inputs, name, samples, rank, w[0].numel()) for name, w in self._weights.items()
        }
        outputs = {name: self._mean(self._outputs, name, samples, rank, len(w)) for name, w in self._weights.items()}
        return Factors(inputs, outputs)

    def _mean(self, moments: dict[str, SecondMoment], name: str, samples: int, rank: int, size: int) -> LowRank:
        moment, weight = moments[name], self._weights[name]
        try:
            rows = weight.new_zeros(1, size, dtype=torch.float64) if moment.empty else moment.rows() / samples**0.5
        except FloatingPointError:
            raise FloatingPointError(
                f"the Fisher of {name!r} is not finite: the gradients of the policy's log-probabilities diverged"
            ) from None
        return LowRank.nearest(rows, rank, dtype=weight.dtype)


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _add_sandwich_(
    total: Float[Tensor, "o d"], left: LowRank, away: Float[Tensor, "o d"], right: LowRank, factor: float
) -> None:
    """Add factor · G D A in place: G = LᵀL + γ I, A = RᵀR + ρ I.

    G D A = γρ D + (γ P + Lᵀ L P) R + ρ Lᵀ Q with P = D Rᵀ and Q = L D: for a large layer every pass over D counts, so
    the last two terms are one product of rank 2r.
    """
    of_inputs, of_outputs = away @ right.root.T, left.root @ away  # P and Q
    columns = torch.cat([of_inputs * left.rest + left.root.T @ (left.root @ of_inputs), left.root.T * right.rest], 1)
    total.addmm_(columns, torch.cat([right.root, of_outputs]), alpha=factor)
    total.addcmul_(away, left.rest * right.rest, value=factor)


@dataclass(frozen=True)
class KroneckerPenalty:
    """P(θ) = Σ over layers of ½ tr(Dᵀ (Σ G) D (Σ A)) / n + ½ dᵀ (Σ G) d around an anchor, immutable.

    Attributes:
        anchor: θ* by parameter name.
        sums: Σ A and Σ G over the tasks.
        tasks: n.
    """

    anchor: Tensors = field(default_factory=dict)
    sums: Factors = field(default_factory=Factors)
    tasks: int = 0

    def after_task(self, factors: Factors, weights: Mapping[str, Tensor]) -> KroneckerPenalty:
        """Return the penalty with a further task and these weights as its anchor."""
        sums = self.sums.plus(factors) if self.tasks else factors
        return KroneckerPenalty({name: weight.clone() for name, weight in weights.items()}, sums, self.tasks + 1)

    def gradient(self, name: str, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Compute ∂P/∂θ of one parameter: (Σ G) D (Σ A) / n, or (Σ G) d for a bias."""
        gradient = torch.zeros_like(weight)
        self.add_gradient_(gradient, name, weight, 1.0)
        return gradient

    def add_gradient_(
        self, total: Float[Tensor, "*shape"], name: str, weight: Float[Tensor, "*shape"], factor: float
    ) -> None:
        """Add ``factor`` times the gradient to ``total``, in place."""
        away = weight - self.anchor[name]
        if weight.dim() == 1:  # Σ A of the input 1 is n
            outputs = self.sums.outputs[name.removesuffix("bias") + "weight"]
            total.add_(outputs.after(away.unsqueeze(0)).squeeze(0), alpha=factor)
            return
        flat = total.flatten(1)  # a view, unless a convolution's gradient has channels last
        _add_sandwich_(flat, self.sums.outputs[name], away.flatten(1), self.sums.inputs[name], factor / self.tasks)
        if flat.data_ptr() != total.data_ptr():
            total.copy_(flat.view(total.shape))

    def at(self, weights: Mapping[str, Tensor]) -> float:
        """Compute P(θ): 0 before the first task."""
        return 0.5 * sum(
            float(torch.sum((weight - self.anchor[name]) * self.gradient(name, weight)))
            for name, weight in weights.items()
            if self.tasks
        )

    def fitted(self, parameters: Mapping[str, Tensor]) -> KroneckerPenalty:
        """Copy the penalty to the device of the parameters.

        Raises:
            ValueError: it belongs to another network.
        """
        ranks = {factor.rank for factor in self.sums.inputs.values()}
        expected, found = layouts(parameters, max(ranks, default=0)), self._tensors()
        for key, tensor in found.items():
            if key not in expected:
                raise ValueError(f"state for {key!r}, which this trunk does not have: it belongs to another network")
            if tensor.shape != expected[key].shape:
                shape = tuple(tensor.shape)
                raise ValueError(f"{key!r} is {shape}, expected {expected[key].shape}: another network's state")
        if missing := [key for key in expected if key not in found]:
            raise ValueError(f"the saved state has no {missing[0]!r}: it belongs to another network")
        device = next(iter(parameters.values())).device
        sums = Factors(
            {name: factor.to(device) for name, factor in self.sums.inputs.items()},
            {name: factor.to(device) for name, factor in self.sums.outputs.items()},
        )
        return KroneckerPenalty(saved.fitted(self.anchor, parameters, "anchor"), sums, self.tasks)

    def tensors(self) -> Tensors:
        """Copy all tensors under the names of a saved state."""
        return {key: tensor.clone() for key, tensor in self._tensors().items()}

    def _tensors(self) -> Tensors:
        found = {}
        for kind, factors in (("inputs", self.sums.inputs), ("outputs", self.sums.outputs)):
            for name, factor in factors.items():
                found[f"{name}.{kind}"], found[f"{name}.{kind}_rest"] = factor.root, factor.rest
        return found | {f"{name}.anchor": tensor for name, tensor in self.anchor.items()}

    @classmethod
    def from_saved(cls, tensors: Mapping[str, Tensor], tasks: int) -> KroneckerPenalty:
        """Build a penalty from the result of :meth:`tensors`, not yet checked against a network.

        Raises:
            ValueError: a tensor is of none of these kinds.
        """
        inputs, inputs_rest, outputs, outputs_rest, anchor = saved.split(tensors, *KINDS)
        saved.check_names(inputs_rest, inputs, "{}.inputs_rest")
        saved.check_names(outputs_rest, outputs, "{}.outputs_rest")
        sums = Factors(
            {name: LowRank(root, inputs_rest[name]) for name, root in inputs.items()},
            {name: LowRank(root, outputs_rest[name]) for name, root in outputs.items()},
        )
        return cls(anchor, sums, tasks)
