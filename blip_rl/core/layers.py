"""The layers of a trunk whose parameters methods protect."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv2d


def protected_layers(trunk: nn.Module) -> dict[str, Layer]:
    """Return the trunk's layers by the name of their weight.

    Raises:
        TypeError: the trunk has parameters of any other kind of layer, or none.
    """
    layers = {
        f"{name}.weight" if name else "weight": module
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    known = {parameter for layer in layers.values() for parameter in layer.parameters(recurse=False)}
    missing = [name for name, parameter in trunk.named_parameters() if parameter not in known]
    if missing or not layers:
        what = f"parameter {missing[0]!r}" if missing else "a trunk without parameters"
        raise TypeError(
            f"{what}: the method protects nn.Linear and nn.Conv2d layers; keep other parameters out of the trunk"
        )
    return layers


def patches(
    layer: nn.Conv2d, x: Float[Tensor, "samples channels height width"]
) -> Float[Tensor, "samples inputs positions"]:
    """Return the inputs of a convolution at every position, in the order of its flattened weight, of all groups."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)  # also right for padding="same"
    return F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
