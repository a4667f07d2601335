"""Shrink and perturb: interpolate weights towards newly initialised ones.

θ ← (1 − share) θ + share · θ_new, after Ash & Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020 (arXiv
1910.08475); in this form Juliani & Ash, NeurIPS 2024 (arXiv 2405.19153).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def shrink_and_perturb_(parameters: Iterable[Tensor], share: float) -> None:
    """Mix newly initialised values into parameters, in place; draws from torch's global generator of their device.

    Layers are initialised with orthogonal matrices of gain √2, with entries of variance 2 / max(outputs, inputs). θ_new
    is Gaussian with this variance: a new orthogonal matrix at every step would cost more than learning. New biases, and
    other vectors, are 0.

    Args:
        parameters: Weights, (outputs, ...), and vectors.
        share: 0 to 1.
    """
    for parameter in parameters:
        parameter.mul_(1 - share)
        if parameter.dim() > 1:
            outputs, inputs = parameter.shape[0], parameter[0].numel()
            parameter.add_(torch.randn_like(parameter), alpha=share * (2 / max(outputs, inputs)) ** 0.5)
