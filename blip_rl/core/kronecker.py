"""Kronecker-factored Fisher information of a policy, and the quadratic penalty of all earlier tasks that it gives.

The Fisher of a layer's weight is E[vec(g) vec(g)ᵀ], g the gradient of log π(a|s). For y = x Wᵀ it is g = δ xᵀ, so that
with x and δ taken as independent

    linear  F ≈ A ⊗ G,    A = E[x xᵀ],                    G = E[δ δᵀ]
    conv    F ≈ A ⊗ G,    A = mean over patches of x xᵀ,   G = E[Σ over positions of δ δᵀ]

(K-FAC: Martens & Grosse, ICML 2015, arXiv 1503.05671; convolutions: Grosse & Martens, ICML 2016, arXiv 1602.01407). For
D = W − W* the policy diverges, to second order, by ½ tr(Dᵀ G D A). Unlike the diagonal Fisher it knows which
combinations of inputs a task uses: changing a weight costs nothing in a direction that its inputs never take, however
active the single inputs are. A bias has the input 1: ½ dᵀ G d. Layers, and a layer's weight and bias, are independent.

The Fishers of n tasks are summed as (Σ A) ⊗ (Σ G) / n, which is exact for equal tasks and has a constant size. Online
structured Laplace approximation: Ritter, Botev & Barber, NeurIPS 2018 (arXiv 1805.07810).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from blip_rl.core import saved
from blip_rl.core.backward_passes import Expectation, Head, backward_passes, patches, supported_layers

Tensors = dict[str, Float[Tensor, " ..."]]
KINDS = ("inputs", "outputs", "anchor")
"""Tensors of a saved state: A of each weight, G of each parameter, θ* of each parameter."""


@dataclass(frozen=True)
class Factors:
    """Kronecker factors by parameter name.

    Attributes:
        inputs: A of each weight, (d, d), d the number of weights of an output; a bias has none.
        outputs: G of each weight and each bias, (outputs, outputs).
    """

    inputs: Tensors = field(default_factory=dict)
    outputs: Tensors = field(default_factory=dict)

    def trace(self) -> float:
        """Return the trace of the Fisher of all parameters."""
        return sum(
            float(output.trace()) * (float(self.inputs[name].trace()) if name in self.inputs else 1.0)
            for name, output in self.outputs.items()
        )

    def scaled(self, factor: float) -> Factors:
        """Return the factors of ``factor`` times the Fisher."""
        return Factors(self.inputs, {name: output * factor for name, output in self.outputs.items()})

    def plus(self, other: Factors) -> Factors:
        """Return the sums of A and of G."""
        return Factors(
            {name: own + other.inputs[name] for name, own in self.inputs.items()},
            {name: own + other.outputs[name] for name, own in self.outputs.items()},
        )


def kronecker_fisher(
    trunk: nn.Module,
    head: Head,
    observations: Shaped[Tensor, "samples ..."],
    actions: Shaped[Tensor, "samples_of_actions ..."] | None = None,
    *,
    expectation: Expectation = "sampled",
    preprocess: Callable[[Tensor], Tensor] | None = None,
    chunk_samples: int = 64,
    generator: torch.Generator | None = None,
) -> Factors:
    """Compute A and G of every layer; arguments as for :func:`blip_rl.core.fisher.diagonal_fisher`.

    Raises:
        ValueError: as :func:`blip_rl.core.fisher.diagonal_fisher`.
        TypeError: a layer is of another kind, or a convolution has groups.
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
    return sums.factors(len(observations))


def check_layers(trunk: nn.Module) -> None:
    """Check that every layer's weight is one matrix.

    Raises:
        TypeError: a layer is neither linear nor a 2-D convolution, or a convolution has groups.
    """
    for name, layer in supported_layers(trunk).items():
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            raise TypeError(f"layer {name!r} has {layer.groups} groups: Kronecker factors need groups=1")


def layouts(parameters: Mapping[str, Tensor]) -> dict[str, saved.TensorLayout]:
    """Return the layouts of ``<parameter>.inputs``, ``.outputs`` and ``.anchor``; meta tensors are enough."""
    found = {}
    for name, parameter in parameters.items():
        outputs = len(parameter)
        if parameter.dim() > 1:
            size = parameter[0].numel()
            found[f"{name}.inputs"] = saved.TensorLayout(torch.float32, (size, size))
        found[f"{name}.outputs"] = saved.TensorLayout(torch.float32, (outputs, outputs))
        found[f"{name}.anchor"] = saved.TensorLayout(torch.float32, tuple(parameter.shape))
    return found


class _Sums:
    """Σ over samples of x xᵀ and of δ δᵀ, by layer."""

    def __init__(self, trunk: nn.Module) -> None:
        self._parameters = dict(trunk.named_parameters())
        self._inputs: Tensors = {}
        self._outputs: Tensors = {}

    def add_inputs(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> None:
        """Add x xᵀ: the mean over positions for each sample."""
        rows = patches(layer, x).transpose(1, 2) if isinstance(layer, nn.Conv2d) else x
        positions = rows[0].numel() // rows.shape[-1]
        flat = rows.reshape(-1, rows.shape[-1])
        self._add(self._inputs, name, flat.T @ flat / positions)

    def add_gradients(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, delta: Tensor) -> None:
        """Add δ δᵀ: the sum over positions for each sample."""
        flat = delta.transpose(0, 1).flatten(1) if isinstance(layer, nn.Conv2d) else delta.flatten(0, -2).T
        self._add(self._outputs, name, flat @ flat.T)

    def factors(self, samples: int) -> Factors:
        """Return the means; 0 for a layer that the policy does not depend on."""
        inputs, outputs = {}, {}
        for name, parameter in self._parameters.items():
            layer, _, kind = name.rpartition(".")
            size = len(parameter)
            outputs[name] = self._outputs.get(layer, parameter.new_zeros(size, size)) / samples
            if kind == "weight":
                width = parameter[0].numel()
                inputs[name] = self._inputs.get(layer, parameter.new_zeros(width, width)) / samples
        return Factors(inputs, outputs)

    @staticmethod
    def _add(sums: Tensors, name: str, value: Tensor) -> None:
        sums[name] = value.detach() if name not in sums else sums[name].add_(value.detach())


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
        away, outputs = weight - self.anchor[name], self.sums.outputs[name]
        if name not in self.sums.inputs:
            return outputs @ away  # Σ A of the input 1 is n
        gradient = outputs @ away.flatten(1) @ self.sums.inputs[name]
        return (gradient / self.tasks).view(weight.shape)

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
        expected = layouts(parameters)
        for key, tensor in self._tensors().items():
            if key not in expected:
                raise ValueError(f"state for {key!r}, which this trunk does not have: it belongs to another network")
            if tensor.shape != expected[key].shape:
                shape = tuple(tensor.shape)
                raise ValueError(f"{key!r} is {shape}, expected {expected[key].shape}: another network's state")
        if missing := [key for key in expected if key not in self._tensors()]:
            raise ValueError(f"the saved state has no {missing[0]!r}: it belongs to another network")
        device = next(iter(parameters.values())).device
        inputs = {name: tensor.to(device) for name, tensor in self.sums.inputs.items()}
        outputs = {name: tensor.to(device) for name, tensor in self.sums.outputs.items()}
        return KroneckerPenalty(saved.fitted(self.anchor, parameters, "anchor"), Factors(inputs, outputs), self.tasks)

    def tensors(self) -> Tensors:
        """Copy all tensors under the names of a saved state."""
        return {key: tensor.clone() for key, tensor in self._tensors().items()}

    def _tensors(self) -> Tensors:
        kept = zip(KINDS, (self.sums.inputs, self.sums.outputs, self.anchor), strict=True)
        return {f"{name}.{kind}": tensor for kind, tensors in kept for name, tensor in tensors.items()}

    @classmethod
    def from_saved(cls, tensors: Mapping[str, Tensor], tasks: int) -> KroneckerPenalty:
        """Build a penalty from the result of :meth:`tensors`, not yet checked against a network.

        Raises:
            ValueError: a tensor is of none of these kinds.
        """
        inputs, outputs, anchor = saved.split(tensors, *KINDS)
        return cls(anchor, Factors(inputs, outputs), tasks)
