"""The network inside a stable-baselines3 zip, read without running any code of the file.

Such a file is meant to be unpickled, and unpickling runs whatever its author wrote into it. Here only its tensors are
read, with torch's loader for tensors alone, and what its JSON says in plain words: kinds of layers, steps trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blip_rl.errors import UserError
from blip_rl.untrusted.files import open_regular, parse_json
from blip_rl.untrusted.machine import check_memory
from blip_rl.untrusted.torch_files import load_tensors
from blip_rl.untrusted.zips import open_zip, read_member

_MAX_METADATA_BYTES, _MAX_WEIGHT_BYTES = 64_000_000, 2_000_000_000
_COPIES = 5  # of the weights: as they come, as they are checked, as tensors, laid side by side, in the run's network
_MAX_CONVOLUTIONS, _MAX_DIGITS = 64, 3
_NATURE_STRIDES = (4, 2, 1)
_SB3 = "stable_baselines3."
_SHORT = {"policy": "pi_", "value": "vf_"}
_ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "SiLU": "silu"}


@dataclass(frozen=True)
class ExternalLayer:
    """A layer in front of an activation; ``stride`` is 0 for one that is fully connected."""

    weight: Tensor
    bias: Tensor
    stride: int = 0


@dataclass(frozen=True)
class ExternalAgent:
    """What a file holds.

    Attributes:
        policy: Layers from observations to the features that actions are chosen by.
        value: Layers from observations to the features that values are told by.
        activation: As recipes name it.
        actor: Weight and bias of the last layer of the policy.
        critic: Weight and bias of the last layer of the values.
        log_std: For continuous actions.
        env_steps: Steps it was trained for.
    """

    policy: Sequence[ExternalLayer]
    value: Sequence[ExternalLayer]
    activation: str
    actor: tuple[Tensor, Tensor]
    critic: tuple[Tensor, Tensor]
    log_std: Tensor | None
    env_steps: int


def read_agent(file: Path) -> ExternalAgent:
    """Read the network of a PPO or A2C.

    Raises:
        UserError: no such file, not one whose network can be read without running its code, or one with tensors that
            our network has no place for.
    """
    metadata, tensors = _contents(file)
    options = metadata.get("policy_kwargs")
    options = options if isinstance(options, dict) else {}
    _check_kind(file, metadata, options, tensors)
    network = _Network(tensors)
    try:
        _check_extractor(file, network, options)
        policy, value = (_path(network, part, options) for part in ("policy", "value"))
        actor, critic = (network.layer(name) for name in ("action_net", "value_net"))
        log_std = network.log_std()
    except UserError:
        raise
    except (LookupError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"'{file}' is not one of stable-baselines3's usual policies: {error}") from error
    if unknown := network.unused():
        raise UserError(
            f"'{file}' cannot become a run: it has {_listed(unknown)}, which stable-baselines3's usual policies have "
            "not, and without which it would play as another agent"
        )
    if not policy or not value:
        raise UserError(f"'{file}' cannot become a run: it has no layer between observations and actions")
    return ExternalAgent(policy, value, _activation(file, tensors, options), actor, critic, log_std, _steps(metadata))


def _contents(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The file's JSON and its policy's tensors."""
    name = f"'{file}'"
    with open_regular(file) as opened, open_zip(name, opened) as archive:
        text = read_member(name, archive, "data", _MAX_METADATA_BYTES)
        size = getattr(archive.NameToInfo.get("policy.pth"), "file_size", 0)
        check_memory(f"{name}: policy.pth", {"its weights": _COPIES * size}, "it is too large for this machine")
        weights = read_member(name, archive, "policy.pth", _MAX_WEIGHT_BYTES)
    tensors = load_tensors(f"{name}: policy.pth", weights)
    metadata = parse_json(text.decode("utf-8", "replace"), f"{name}: data")
    return metadata if isinstance(metadata, dict) else {}, tensors


def _check_kind(file: Path, metadata: dict[str, Any], options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse what our network cannot be."""
    described = metadata.get("policy_class")
    module = str(described.get("__module__", _SB3)) if isinstance(described, dict) else _SB3
    reasons = {
        "it has no action_net and value_net: expected PPO or A2C": not {"action_net.weight", "value_net.weight"}
        <= set(tensors),
        "it is recurrent": any("lstm" in name for name in tensors),
        "it has several inputs": any(".extractors." in name for name in tensors),
        "its exploration depends on the state (use_sde)": bool(metadata.get("use_sde")),
        "it takes images as they are (normalize_images=False)": options.get("normalize_images") is False,
        "it squashes its actions (squash_output)": bool(options.get("squash_output")),
        f"its policy is a class of its author's own, from the module {module[:80]!r}": not module.startswith(_SB3),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"'{file}' cannot become a run: {reason}")


class _Network:
    """The tensors of a policy by name, and which of them have been used."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._used: set[str] = set()

    def has(self, *prefixes: str) -> bool:
        """Whether a name begins in one of these ways."""
        return any(name.startswith(prefixes) for name in self.tensors)

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer.

        Raises:
            LookupError, ValueError: one is missing, or they are no layer's.
        """
        weight, bias = self._take(f"{name}.weight"), self._take(f"{name}.bias")
        if weight.dim() not in (2, 4) or bias.shape != weight.shape[:1] or 0 in weight.shape:
            raise ValueError(f"{name!r} has weights of {tuple(weight.shape)} and biases of {tuple(bias.shape)}")
        return weight, bias

    def layers(self, prefix: str, strides: Sequence[int] | None = None) -> list[ExternalLayer]:
        """Layers of an ``nn.Sequential``, each followed by its activation.

        Raises:
            LookupError, ValueError: other modules are among them.
        """
        found = sorted(
            {name.removeprefix(prefix).partition(".")[0] for name in self.tensors if name.startswith(prefix)}
        )
        count = len(found)
        if set(found) != {str(2 * index) for index in range(count)}:
            raise ValueError(f"{prefix!r} has modules {_listed(found)}: expected layers with activations between them")
        layers = [self.layer(f"{prefix}{2 * index}") for index in range(count)]
        if strides is None:
            return [ExternalLayer(*layer) for layer in layers]
        return [ExternalLayer(*layer, stride) for layer, stride in zip(layers, strides, strict=True)]

    def log_std(self) -> Tensor | None:
        """Logarithm of the standard deviation of continuous actions.

        Raises:
            ValueError: it is none.
        """
        if "log_std" not in self.tensors:
            return None
        found = self._take("log_std")
        if found.dim() != 1 or not found.exp().isfinite().all():
            raise ValueError("'log_std' is no logarithm of a standard deviation for each action")
        return found

    def drop_copies(self, prefix: str, of: str) -> None:
        """Count tensors as used that are copies of others.

        Raises:
            LookupError, ValueError: one is not.
        """
        for name in [name for name in self.tensors if name.startswith(prefix)]:
            if not torch.equal(self._take(name), self.tensors[of + name.removeprefix(prefix)].float()):
                raise ValueError(f"{name!r} differs from the one below {of!r}")

    def unused(self) -> list[str]:
        """Names that nobody has asked for."""
        return [name for name in self.tensors if name not in self._used]

    def _take(self, name: str) -> Tensor:
        """A tensor as float32.

        Raises:
            LookupError, ValueError: it is missing, holds no numbers or some that float32 cannot hold.
        """
        self._used.add(name)
        tensor = self.tensors[name].detach()
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{name!r} holds numbers that are not finite, or no weights ({tensor.dtype})")
        if not tensor.float().isfinite().all():
            raise ValueError(f"{name!r} holds {tensor.abs().max().item():.3g}: weights beyond float32 are not taken")
        return tensor.float()


def _path(network: _Network, part: str, options: dict[str, Any]) -> list[ExternalLayer]:
    """Layers from observations to the features of the policy or of the values."""
    extractor = next((p for p in (f"{_SHORT[part]}features_extractor.", "features_extractor.") if network.has(p)), None)
    layers = []
    if extractor is not None:  # a FlattenExtractor has no tensors
        strides = _strides(str(options.get("features_extractor_class", "")))
        layers += [*network.layers(f"{extractor}cnn.", strides), *network.layers(f"{extractor}linear.")]
    # Until version 1.8 stable-baselines3 could share the first layers of policy and values.
    return [*layers, *network.layers("mlp_extractor.shared_net."), *network.layers(f"mlp_extractor.{part}_net.")]


def _check_extractor(file: Path, network: _Network, options: dict[str, Any]) -> None:
    """Make sure that the features extractors, if any, are stable-baselines3's or of our export."""
    modules = {
        name.partition("features_extractor.")[2].partition(".")[0]
        for name in network.tensors
        if name.startswith(("features_extractor.", *(f"{part}features_extractor." for part in _SHORT.values())))
    }
    if modules and (modules != {"cnn", "linear"} or _strides(str(options.get("features_extractor_class", ""))) is None):
        raise UserError(
            f"'{file}' has a features extractor of its author's own: expected stable-baselines3's NatureCNN, or a file "
            "of blip-rl export (others are known only to the code in the file, which is not run)"
        )
    if network.has("pi_features_extractor."):
        network.drop_copies("features_extractor.", of="pi_features_extractor.")


def _strides(described: str) -> tuple[int, ...] | None:
    """Strides of a ``NatureCNN``, or as ``blip-rl export`` writes them down; None for another class."""
    if described in ("", "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"):
        return _NATURE_STRIDES
    if "NatureCNN(" not in described or "padding" in described:
        return None
    strides = []
    for layer in described.split("Conv2d(")[1 : _MAX_CONVOLUTIONS + 1]:
        sides = layer.partition("stride=(")[2].partition(")")[0].split(", ")
        if len(sides) != 2 or sides[0] != sides[1] or not sides[0].isdecimal() or len(sides[0]) > _MAX_DIGITS:
            return None
        strides.append(int(sides[0]))
    return tuple(strides)


def _activation(file: Path, tensors: dict[str, Tensor], options: dict[str, Any]) -> str:
    """The one activation of all layers."""
    words = {name for name in _ACTIVATIONS if f"{name}(" in str(options.get("features_extractor_class", ""))}
    found = words or ({"ReLU"} if _any(tensors, "features_extractor.", "pi_features_extractor.") else set())
    if _any(tensors, "mlp_extractor."):  # Tanh is the default of stable-baselines3
        found |= {str(options.get("activation_fn", "Tanh")).removesuffix("'>").rpartition(".")[2]}
    if len(found) != 1 or not found <= set(_ACTIVATIONS):
        named = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"'{file}' has the activations {named[:200]}: expected one for all layers, out of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[found.pop()]


def _listed(names: Sequence[str]) -> str:
    """The first few of some names from a file."""
    shown = ", ".join(repr(name[:80]) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _any(tensors: dict[str, Tensor], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in tensors)


def _steps(metadata: dict[str, Any]) -> int:
    steps = metadata.get("num_timesteps")
    return steps if isinstance(steps, int) and 0 <= steps < 10**15 else 0
