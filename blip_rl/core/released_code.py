"""Constants of the BLIP release, from the shape of a layer and in the units of the true Fisher."""

from __future__ import annotations

import math


def reference_prior(prior: float, batch: int) -> float:
    """Convert a prior of the reference to one for the true Fisher: F₀ · batch².

    The reference squares per-sample gradients of the batch-mean loss (``update_fisher_exact``), so its Fisher is the
    true one divided by batch²: its 5e-18 with a batch of 62 is 1.92e-14 here.
    """
    return prior * batch**2


def fan(weight_shape: tuple[int, ...]) -> int:
    """Compute max(outputs, inputs·kernel height·kernel width) of a linear or convolution weight. Source: reference."""
    outputs, *inputs = weight_shape
    return max(outputs, math.prod(inputs))


def weight_bound(layer_fan: int) -> float:
    """Compute the bound b = 6/√fan of a layer's weights, see :func:`fan`. Source: reference."""
    return 6.0 / math.sqrt(layer_fan)
