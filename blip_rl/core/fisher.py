"""Diagonal Fisher information of a policy, in closed form (BLIP Eq. 6).

``F = E_s E_{a∼π(·|s)} [(∂ log π(a|s) / ∂θ)²]``, the expectation over states s and actions a of the policy π.

The gradient is squared per sample, before the mean. The sums of squares follow from a layer's input x and δ, the
gradient of ``Σₙ log π(aₙ|sₙ)`` with respect to its output (:mod:`blip_rl.core.backward_passes`)::

    linear  y = x Wᵀ + β     Σₙ (∂W)² = (δ∘δ)ᵀ (x∘x)               Σₙ (∂β)² = Σₙ δ∘δ
    conv    y = W ∗ x + β    Gₙ = δₙ · unfold(xₙ)ᵀ, Σₙ Gₙ∘Gₙ         Σₙ (∂β)² = Σₙ (Σ positions δₙ)²

The linear form needs no per-sample weight gradient, since (δₙᵢ xₙⱼ)² = δₙᵢ² xₙⱼ². A convolution shares its weights over
positions, so Gₙ must be summed over them before it is squared. Nothing depends on the chunk size. The BLIP release
squares per-sample gradients of the batch-mean loss instead, so its Fisher is smaller by the square of the batch size;
``core.released_code.reference_prior`` converts its constants.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from blip_rl.core.backward_passes import Expectation, Head, backward_passes
from blip_rl.core.layers import patches


def diagonal_fisher(
    trunk: nn.Module,
    head: Head,
    observations: Shaped[Tensor, "samples ..."],
    actions: Shaped[Tensor, "samples_of_actions ..."] | None = None,
    *,
    expectation: Expectation = "sampled",
    reverse_logits: bool = False,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    chunk_samples: int = 64,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, " ..."]]:
    """Compute the diagonal Fisher: the mean over samples of (∂ log π(a|s) / ∂θ)² for every trunk parameter.

    Args:
        trunk: Any module whose parameters belong to ``nn.Linear`` and ``nn.Conv2d`` layers, each used once per pass.
        head: Maps the trunk's output to the policy.
        observations: On any device, of any dtype that ``preprocess`` or the trunk accepts.
        actions: One action taken for each observation; None draws one per observation from the policy, all in one draw.
        expectation: ``sampled`` takes ``actions``; ``exact`` weights every action of a categorical policy with its
            probability: as many backward passes as actions, and no sampling noise.
        reverse_logits: Compute EWC-DR's importance instead, (∂ log softmax(−z)ₐ / ∂θ)² with actions of π = softmax(z),
            which does not vanish as π becomes certain (Liu & Chang 2026, arXiv 2603.18596); categorical policies only.
        preprocess: Applied to each chunk of observations, for example a conversion to float.
        chunk_samples: Samples per pass; trades memory for speed and does not change the result.
        generator: Random generator of the actions; None: torch's global one.

    Returns:
        Parameter name (as in ``trunk.named_parameters()``) → Fisher, shaped like the parameter. 0 for a
        parameter that the policy does not depend on.

    Raises:
        ValueError: no samples, a layer used twice, ``exact`` with actions given, or ``exact`` or ``reverse_logits``
            without a categorical policy.
        TypeError: a layer with parameters is neither linear nor a 2-D convolution.
    """
    squares = _Squares(trunk)
    backward_passes(
        trunk,
        head,
        observations,
        squares,
        actions,
        expectation=expectation,
        reverse_logits=reverse_logits,
        preprocess=preprocess,
        chunk_samples=chunk_samples,
        generator=generator,
    )
    return {name: total.div_(len(observations)) for name, total in squares.totals.items()}


class _Squares:
    """Sums of squares of each parameter's gradient; 0 for a parameter that the policy does not depend on."""

    def __init__(self, trunk: nn.Module) -> None:
        self.totals = {name: torch.zeros_like(p) for name, p in trunk.named_parameters()}

    def add_inputs(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor) -> None:
        """Do nothing: δ and x are needed together."""

    def add_gradients(self, name: str, layer: nn.Linear | nn.Conv2d, x: Tensor, delta: Tensor) -> None:
        """Add one layer's squares."""
        prefix = f"{name}." if name else ""
        weight, bias = _squares(layer, x, delta)
        self.totals[f"{prefix}weight"].add_(weight)
        if bias is not None:
            self.totals[f"{prefix}bias"].add_(bias)


def _squares(layer: nn.Linear | nn.Conv2d, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor | None]:
    weight, bias = _linear_squares(x, delta) if isinstance(layer, nn.Linear) else _conv_squares(layer, x, delta)
    return weight, None if layer.bias is None else bias


def _linear_squares(
    x: Float[Tensor, "samples *positions inputs"], delta: Float[Tensor, "samples *positions outputs"]
) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"]]:
    """Compute the sums of squares of a linear layer's weight and bias; ``delta`` is δ."""
    if x.dim() == 2:
        # (δₙᵢ xₙⱼ)² = δₙᵢ² xₙⱼ²: one product of the squares, and no (samples, outputs, inputs) tensor.
        squared = delta.square()
        return squared.T @ x.square(), squared.sum(0)
    # The weight is shared by all positions of a sample: its gradient is their sum, squared afterwards.
    x, delta = x.flatten(1, -2), delta.flatten(1, -2)
    per_sample = torch.einsum("nlo,nli->noi", delta, x)
    return per_sample.square().sum(0), delta.sum(1).square().sum(0)


def _conv_squares(
    layer: nn.Conv2d,
    x: Float[Tensor, "samples channels height width"],
    delta: Float[Tensor, "samples outputs top left"],
) -> tuple[Float[Tensor, "outputs group_channels kernel_height kernel_width"], Float[Tensor, " outputs"]]:
    """Compute the sums of squares of a convolution's weight and bias; ``delta`` is δ."""
    samples, groups = len(x), layer.groups
    rows = patches(layer, x)
    # Each group is a convolution of its own: fold groups into the batch, so that one bmm gives all Gₙ.
    rows = rows.reshape(samples * groups, -1, rows.shape[-1])
    positions = delta.reshape(samples * groups, -1, rows.shape[-1])
    per_sample = torch.bmm(positions, rows.transpose(1, 2))
    # In place: per_sample is the largest tensor here, (samples · groups, outputs / groups, inputs · kernel).
    weight = per_sample.square_().reshape(samples, -1).sum(0).reshape(layer.weight.shape)
    return weight, delta.sum(dim=(2, 3)).square().sum(0)
