"""The layers of a trunk whose parameters methods protect."""

from __future__ import annotations

from torch import nn

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
