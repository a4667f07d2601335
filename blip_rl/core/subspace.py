"""Gradient projection: keep updates orthogonal to the subspace spanned by the layer inputs of earlier tasks.

A layer y = x Wᵀ gives the same output for an input x if x ΔWᵀ = 0. With the inputs of earlier tasks as rows of R and
orthonormal columns M that span most of their energy, the part of a step that would change those outputs is removed::

    ΔW ← ΔW − (ΔW M) Λ Mᵀ                      Λ = 1: GPM, Eq. 6 and 7; Λ = diag(λ), 0 ≤ λ ≤ 1: SGP

Columns added by a task: R̂ = R − R M Mᵀ is the part of its inputs outside of M. The right singular vectors of R̂ are
added, largest singular value σ first, as few as reach the threshold ε:

    ‖R M Mᵀ‖² + Σ σ² ≥ ε ‖R‖²                  GPM, Eq. 5 and 9

Importance of a column m for a task, α ≥ 0, with σ_m = ‖R m‖, which for a new column is its singular value:

    λ_m = (α + 1) σ_m / (α σ_m + max σ)        SGP; summed over the tasks and capped at 1

GPM: Saha, Garg & Roy, ICLR 2021 (arXiv 2103.09762). SGP: Saha & Roy, AAAI 2023 (arXiv 2302.01386).
A convolution's inputs are the patches under its kernel. Everything is computed in float64 and kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from blip_rl.core import saved
from blip_rl.core.layers import Layer, patches, protected_layers
from blip_rl.core.second_moment import SecondMoment

Projected = Literal["gradient", "step", "both"]


def basis_layouts(trunk: nn.Module) -> dict[str, saved.TensorLayout]:
    """Return the layouts of ``<weight>.basis``, (inputs, directions): at most as many directions as a layer has inputs.

    Raises:
        TypeError: as :func:`blip_rl.core.layers.protected_layers`.
    """
    sizes = {name: layer.weight[0].numel() for name, layer in protected_layers(trunk).items()}
    return {
        f"{name}.basis": saved.TensorLayout(torch.float32, (size, size), bounded=(1,)) for name, size in sizes.items()
    }


def describe_bases(bases: Mapping[str, Tensor]) -> list[str]:
    """Return one line for each layer: how many of its input directions are protected."""
    return [
        f"{name.removesuffix('.weight')}: {basis.shape[1]:,} of {basis.shape[0]:,} input directions protected"
        for name, basis in bases.items()
    ]


@torch.no_grad()
def layer_inputs(
    trunk: nn.Module,
    observations: Shaped[Tensor, "samples ..."],
    preprocess: Callable[[Tensor], Tensor],
    chunk_samples: int = 32,
) -> dict[str, Float64[Tensor, "_ _"]]:
    """Collect the inputs of every layer for these observations.

    No patch is dropped: once a layer has more inputs than an input has entries, only Σ x xᵀ is kept.

    Args:
        trunk: Module of linear and convolution layers.
        observations: On any device.
        preprocess: Applied to each chunk of observations.
        chunk_samples: Samples per pass; trades memory for speed.

    Returns:
        Name of the layer's weight → R with RᵀR = Σ x xᵀ over all inputs x, at most d rows, d the size of x.

    Raises:
        ValueError: no observations.
        TypeError: the trunk has parameters of any other kind of layer.
        FloatingPointError: an input is not finite.
    """
    if len(observations) == 0:
        raise ValueError("0 observations: expected at least one")
    layers = protected_layers(trunk)
    device = next(trunk.parameters()).device
    with _collecting(layers) as collected:
        for chunk in torch.split(observations, chunk_samples):
            trunk(preprocess(chunk.to(device)))
    return {name: _finite(inputs, name) for name, inputs in collected.items()}


def _finite(inputs: SecondMoment, name: str) -> Float64[Tensor, "n d"]:
    try:
        return inputs.rows()
    except FloatingPointError:
        raise FloatingPointError(f"an input of the layer of {name!r} is not finite: training has diverged") from None


@contextmanager
def _collecting(layers: dict[str, Layer]) -> Iterator[dict[str, SecondMoment]]:
    """Collect inputs with forward hooks; not pre-hooks, because a trunk may bypass a layer without forward hooks."""
    collected = {name: SecondMoment() for name in layers}
    handles = [
        layer.register_forward_hook(lambda module, args, _, name=name: collected[name].add(_rows(module, args[0])))
        for name, layer in layers.items()
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _rows(layer: nn.Module, x: Float[Tensor, " ..."]) -> Float[Tensor, "n d"]:
    """Return one row per application of the weight: samples, or patches of a convolution. Copies, as x may change."""
    if isinstance(layer, nn.Linear):
        return x.detach().reshape(-1, layer.in_features).clone()
    conv = cast(nn.Conv2d, layer)
    inputs = patches(conv, x.detach())
    grouped = inputs.view(len(inputs), conv.groups, -1, inputs.shape[2])
    return grouped.transpose(2, 3).flatten(0, 2)


def empty_basis(weight: Float[Tensor, "outputs ..."]) -> Float32[Tensor, "d 0"]:
    """Return M of a layer before the first task: no columns yet."""
    return weight.new_zeros((weight[0].numel(), 0), dtype=torch.float32, requires_grad=False)


def new_directions(
    inputs: Float64[Tensor, "n d"], basis: Float32[Tensor, "d k"], threshold: float
) -> Float32[Tensor, "d new"]:
    """Compute the fewest new directions that, with the basis, hold a share ``threshold`` of the inputs' energy.

    Args:
        inputs: R.
        basis: M, orthonormal columns.
        threshold: ε, above 0 and below 1.

    Returns:
        Orthonormal columns, orthogonal to the basis, the most energetic first.
    """
    held = basis.double()
    # R̂ = R − R M Mᵀ, the part of the inputs outside of the basis.
    missed = torch.addmm(inputs, inputs @ held, held.T, alpha=-1)
    # R̂R̂ᵀ is the smaller product, n ≤ d; its eigenvectors u give the directions R̂ᵀu.
    squares, mixtures = (part.flip(-1) for part in torch.linalg.eigh(missed @ missed.T))
    squares = squares.cpu()  # CUDA's cumsum may add up in another order every time
    gained = squares.clamp_(min=0.0).cumsum(0)
    energy = inputs.square().sum().cpu()
    # ‖R M Mᵀ‖² + Σ σ² for 0, 1, 2, … new directions, as ‖R‖² − ‖R̂‖² + Σ σ² (GPM Eq. 9).
    reached = energy - gained[-1] + F.pad(gained, (1, 0))
    enough = (reached >= threshold * energy).nonzero()
    # Rounding may keep the sum below the threshold for any count. A basis has at most d directions.
    count = min(int(enough[0]) if len(enough) else len(squares), held.shape[0] - held.shape[1])
    fresh = missed.T @ mixtures[:, :count]
    # Rounding leaves components along the basis in weak directions: orthogonalise once more.
    orthonormal: Tensor = torch.linalg.qr(fresh - held @ (held.T @ fresh)).Q
    return orthonormal.float()


def extended(basis: Float32[Tensor, "d k"], fresh: Float32[Tensor, "d new"]) -> Float32[Tensor, "d k+new"]:
    """Append columns to M; contiguous."""
    return torch.cat([basis, fresh], dim=1).contiguous()


def importance(inputs: Float64[Tensor, "n d"], basis: Float32[Tensor, "d k"], scale: float) -> Float32[Tensor, " k"]:
    """Compute λ of every column of the basis for one task: 1 for the column with most energy, 0 for one with none.

    Args:
        inputs: R.
        basis: M.
        scale: α. At 0, λ = σ / max σ; a larger α brings every λ closer to 1.
    """
    sigma = (inputs @ basis.double()).norm(dim=0)
    largest = sigma.max() if len(sigma) else sigma.sum()
    task: Tensor = (scale + 1) * sigma / (scale * sigma + largest).clamp(min=torch.finfo(sigma.dtype).tiny)
    return task.float()


def accumulated(earlier: Float32[Tensor, " earlier"], task: Float32[Tensor, " k"]) -> Float32[Tensor, " k"]:
    """Sum λ over all tasks: the earlier sum, zero-padded for new columns, plus the task's; capped at 1."""
    return (F.pad(earlier, (0, len(task) - len(earlier))) + task).clamp(max=1.0)


def remove_(
    change: Float[Tensor, " outputs *inputs"],
    basis: Float32[Tensor, "d k"],
    scales: Float32[Tensor, " k"] | None = None,
) -> None:
    """Project in place: ΔW ← ΔW − (ΔW M) Λ Mᵀ, for any memory layout.

    Args:
        change: ΔW, shaped like the layer's weight.
        basis: M, d the product of ``inputs``.
        scales: λ; None for ones.
    """
    flat = change.reshape(len(change), -1)  # a view if possible; else a copy, written back below
    coefficients = flat @ basis
    flat.addmm_(coefficients if scales is None else coefficients.mul_(scales), basis.T, alpha=-1)
    if flat.data_ptr() != change.data_ptr():
        change.copy_(flat.view(change.shape))


class Guard:
    """Keeps training out of the subspaces of earlier tasks; biases are frozen.

    Args:
        trunk: The layers to train.
        bases: M by weight name.
        scales: λ by weight name; empty for ones.
        projected: Project the gradient, the optimizer's step, or both. For an optimizer with per-coordinate scales,
            such as Adam, only the last two keep steps out of the subspaces.

    Raises:
        ValueError: the bases belong to another trunk.
    """

    def __init__(
        self,
        trunk: nn.Module,
        bases: dict[str, Float32[Tensor, " ..."]],
        scales: dict[str, Float32[Tensor, " ..."]],
        projected: Projected,
    ) -> None:
        weights = {name: layer.weight for name, layer in protected_layers(trunk).items()}
        _check_fit(bases, scales, weights)
        self._parameters = dict(trunk.named_parameters())
        self._bases = {name: basis.to(weights[name].device) for name, basis in bases.items()}
        self._scales = {name: scale.to(weights[name].device) for name, scale in scales.items()}
        self._clear_gradient = projected != "step"
        watched = [name for name in self._parameters if projected != "gradient" or name not in weights]
        self._before = {name: self._parameters[name].detach().clone() for name in watched}

    @torch.no_grad()
    def gradient(self, name: str, parameter: nn.Parameter) -> None:
        """Project one parameter's gradient."""
        if parameter.grad is None:
            return
        if name not in self._bases:
            parameter.grad.zero_()
        elif self._clear_gradient:
            remove_(parameter.grad, self._bases[name], self._scales.get(name))

    @torch.no_grad()
    def step(self) -> None:
        """Project the optimizer's last step: θ ← θ_before + projected(θ − θ_before)."""
        for name, before in self._before.items():
            parameter = self._parameters[name]
            if name in self._bases:
                change = parameter - before
                remove_(change, self._bases[name], self._scales.get(name))
                before.add_(change)
            parameter.copy_(before)


def _check_fit(bases: dict[str, Tensor], scales: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    saved.check_names(bases, weights, "{}.basis")
    if scales:
        saved.check_names(scales, weights, "{}.importance")
    for name, weight in weights.items():
        basis, inputs = bases[name], weight[0].numel()
        if basis.dim() != 2 or len(basis) != inputs:
            raise ValueError(f"'{name}.basis' is {tuple(basis.shape)}, expected ({inputs}, …): another network's state")
        if scales and scales[name].shape != basis.shape[1:]:
            raise ValueError(f"'{name}.importance' is {tuple(scales[name].shape)}, expected ({basis.shape[1]},)")
