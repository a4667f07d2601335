"""The trunk: layers shared by all tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from blip_rl.agent_config import ImageTrunkConfig, TrunkConfig
from blip_rl.errors import UserError

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}


class Modulation(nn.Module):
    """One task's scale and shift for every unit of a trunk layer: y ↦ scale∘y + shift, initially the identity."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(units))
        self.shift = nn.Parameter(torch.zeros(units))

    def forward(self, y: Tensor) -> Tensor:
        """Modulate y, shape (batch, units) or (batch, units, height, width)."""
        shape = (1, -1) + (1,) * (y.dim() - 2)
        return torch.addcmul(self.shift.view(shape), y, self.scale.view(shape))


class Trunk(BaseFeaturesExtractor):
    """Convolutions and fully connected layers for stacked frames, fully connected layers for vectors.

    Layers are named ``conv1``, ``conv2``, …, ``fc1``, …; each is followed by the activation, and between them come, if
    the recipe says so, layer normalisation and the task's modulation. Weights start orthogonal with gain √2, biases at
    0 (the BLIP reference's, and stable-baselines3's, initialisation).
    """

    def __init__(self, observation_space: spaces.Space[Any], config: TrunkConfig) -> None:
        layers, activation = _build_layers(observation_space, config)
        super().__init__(observation_space, features_dim=_outputs(layers[-1]))
        for name, layer in zip(_layer_names(layers), layers, strict=True):
            self.add_module(name, layer)
        self.layer_names = _layer_names(layers)
        self.reset_parameters()
        # In place where the pre-activation is not needed again: these layers are bound by memory traffic.
        self._activation = nn.ReLU(inplace=True) if activation is nn.ReLU else activation()
        self._normalize = config.normalization == "layer"
        self._modulations: list[Modulation] = []  # a list, not a ModuleList: they belong to the task modules
        # Convolutions run faster with channels last; orthogonal initialisation does not support it, so it comes after.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every layer, in place: weights orthogonal with gain √2, biases 0.

        Drawn on the CPU from torch's global generator, so that a seed gives the same weights on all devices.
        """
        for name in self.layer_names:
            layer = cast("nn.Linear | nn.Conv2d", self.get_submodule(name))
            fresh = torch.empty(layer.weight.shape)  # contiguous, as the initialisation requires
            layer.weight.copy_(nn.init.orthogonal_(fresh, gain=np.sqrt(2)))
            nn.init.zeros_(cast(nn.Parameter, layer.bias))

    @property
    def layer_outputs(self) -> list[int]:
        """Number of units (or channels) of each layer."""
        return [_outputs(cast("nn.Linear | nn.Conv2d", self.get_submodule(name))) for name in self.layer_names]

    def modulate(self, modulations: list[Modulation]) -> None:
        """Apply a task's modulations from now on (an empty list: none). They do not become parameters of the trunk."""
        self._modulations = modulations

    def forward(self, observations: Tensor) -> Tensor:
        """Map preprocessed observations, (batch, ...), to features, (batch, features_dim)."""
        x = observations
        for index, name in enumerate(self.layer_names):
            layer = self.get_submodule(name)
            if isinstance(layer, nn.Linear) and x.dim() > 2:
                # In the order (channel, row, column) whatever the memory layout, so weights fit a plain nn.Flatten.
                x = x.flatten(1)
            x = self._activation(self._before_activation(layer, index, x))
        return x

    def _before_activation(self, layer: nn.Module, index: int, x: Tensor) -> Tensor:
        modulation = self._modulations[index] if self._modulations else None
        if self._normalize:
            y = normalized(layer(x))
            return y if modulation is None else cast(Tensor, modulation(y))
        return cast(Tensor, layer(x)) if modulation is None else _modulated(layer, modulation, x)


def normalized(y: Tensor) -> Tensor:
    """Normalise each sample to mean 0 and variance 1 over all its units and positions: LayerNorm without parameters.

    Ba et al. 2016 (arXiv 1607.06450). A task's modulation afterwards takes the place of LayerNorm's gain and bias.

    Args:
        y: (batch, units) or (batch, channels, height, width).
    """
    # One group of all channels is the same as LayerNorm over (channels, height, width), and keeps channels last.
    return F.group_norm(y, 1) if y.dim() > 2 else F.layer_norm(y, y.shape[1:])


def _modulated(layer: nn.Module, modulation: Modulation, x: Tensor) -> Tensor:
    """Compute scale ∘ layer(x) + shift.

    For a convolution the scale is folded into weight and bias, thousands of numbers, instead of applied to the output,
    millions. A layer with forward hooks, as when its Fisher is measured, runs unfolded, so that its hooks are called.
    """
    if isinstance(layer, nn.Conv2d) and not layer._forward_hooks:
        scale, bias = modulation.scale, cast(Tensor, layer.bias)
        weight = layer.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, torch.addcmul(modulation.shift, bias, scale), layer.stride)
    return cast(Tensor, modulation(layer(x)))


def check_observations(task: str, space: spaces.Space[Any], first_task: str, first_space: spaces.Space[Any]) -> None:
    """Check that a task's observations fit the trunk that the first task's observations shaped.

    Raises:
        UserError: they differ.
    """
    if not isinstance(space, spaces.Box) or _kind(space) != _kind(first_space):
        raise UserError(
            f"task {task!r} observes {_describe(space)}, but the shared trunk takes {_describe(first_space)} from the "
            f"first task {first_task!r}: all tasks of a sequence need the same kind and shape of observations; "
            "train them in separate runs, or change the observations with wrappers"
        )


def _kind(space: spaces.Space[Any]) -> tuple[object, ...]:
    """Return what observations of one kind have in common, as far as the space tells.

    Bounds of continuous observations tell nothing: they differ between environments of one kind, and many are infinite.
    Those of integers do: one-hot codes (0 or 1) are neither frames (0 to 255) nor counts. Frames with channels last
    have been transposed to channels first before.
    """
    if not isinstance(space, spaces.Box):
        return (type(space),)
    is_code = _is_integer(space) and bool(np.all(space.low >= 0) and np.all(space.high <= 1))
    return space.shape, space.dtype, is_image_space(space), is_code


def _is_integer(space: spaces.Space[Any]) -> bool:
    return np.issubdtype(space.dtype, np.integer)


def check_trunk(space: spaces.Space[Any], config: TrunkConfig) -> None:
    """Check that a trunk can be built for these observations, without allocating it.

    Raises:
        UserError: it cannot.
    """
    with torch.device("meta"):
        _build_layers(space, config)


def _describe(space: spaces.Space[Any]) -> str:
    if not isinstance(space, spaces.Box):
        return type(space).__name__
    bounds = f" from {space.low.min()} to {space.high.max()}" if _is_integer(space) else ""
    return f"{space.dtype} {space.shape}{bounds}"


def _build_layers(space: spaces.Space[Any], config: TrunkConfig) -> tuple[list[nn.Linear | nn.Conv2d], type[nn.Module]]:
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 3):
        raise UserError(f"observations of {_describe(space)}: expected a vector or an image (channels, height, width)")
    if len(space.shape) == 1:
        sizes = [int(space.shape[0]), *config.vector.hidden]
        return [nn.Linear(i, o) for i, o in pairwise(sizes)], _ACTIVATIONS[config.vector.activation]
    if not is_image_space(space, check_channels=False):
        raise UserError(f"observations of {_describe(space)}: expected images of uint8 from 0 to 255")
    convolutions, features = _convolutions(space.shape, config.image)
    sizes = [features, *config.image.hidden]
    linear: list[nn.Linear | nn.Conv2d] = [nn.Linear(i, o) for i, o in pairwise(sizes)]
    return [*convolutions, *linear], _ACTIVATIONS[config.image.activation]


def _convolutions(shape: tuple[int, ...], config: ImageTrunkConfig) -> tuple[list[nn.Linear | nn.Conv2d], int]:
    """Build the convolution layers; return them and the number of their output features."""
    channels, height, width = shape
    layers: list[nn.Linear | nn.Conv2d] = []
    for index, (outputs, kernel, stride) in enumerate(config.conv, start=1):
        if min(height, width) < kernel:
            raise UserError(
                f"trunk.image.conv: layer {index} has a {kernel}×{kernel} kernel, but only {height}×{width} pixels "
                f"reach it from observations of {tuple(shape)}: use smaller kernels or strides, or larger frames"
            )
        layers.append(nn.Conv2d(channels, outputs, kernel, stride))
        channels, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return layers, channels * height * width


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _layer_names(layers: list[nn.Linear | nn.Conv2d]) -> list[str]:
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in layers)
    return [f"conv{i + 1}" if i < convolutions else f"fc{i + 1 - convolutions}" for i in range(len(layers))]
