"""Read the network in a stable-baselines3 zip file without running code from the file.

``PPO.load`` unpickles parts of the file, which can run arbitrary code. Here only tensors are read, with a loader that
accepts nothing else, and plain JSON metadata such as layer types and the number of training steps.

stable-baselines3 has separate networks for policy and values. They become one trunk that computes exactly the same
outputs: layer by layer, the units are stacked and the weights are block-diagonal, W = [[W_π, 0], [0, W_v]].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blip_rl.errors import UserError
from blip_rl.sb3.block_diagonal import ExternalLayer, concatenate
from blip_rl.untrusted.files import open_regular, parse_json
from blip_rl.untrusted.machine import check_memory
from blip_rl.untrusted.torch_files import load_tensors
from blip_rl.untrusted.zips import open_zip, read_member

_MAX_METADATA_BYTES, _MAX_WEIGHT_BYTES = 64_000_000, 2_000_000_000
_COPIES = 5  # of the weights: raw bytes, validated bytes, tensors, concatenated, in the network of the run
_MAX_CONVOLUTIONS, _MAX_DIGITS = 64, 3
_NATURE_STRIDES = (4, 2, 1)
_SB3 = "stable_baselines3."
_SHORT = {"policy": "pi_", "value": "vf_"}
_ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "SiLU": "silu"}


@dataclass(frozen=True)
class ExternalAgent:
    """The network of a stable-baselines3 agent, with policy and value network in one trunk.

    Attributes:
        layers: Layers of the trunk.
        activation: Name of the activation as in recipes.
        actor: Weight and bias of the last layer of the policy, over all features of the trunk; the same for ``critic``.
        log_std: Logarithm of the standard deviation of continuous actions, shape (actions,); None if discrete.
        env_steps: Number of training steps.
    """

    layers: Sequence[ExternalLayer]
    activation: str
    actor: tuple[Tensor, Tensor]
    critic: tuple[Tensor, Tensor]
    log_std: Tensor | None
    env_steps: int


def read_agent(file: Path) -> ExternalAgent:
    """Read the network of a PPO or A2C.

    Raises:
        UserError: the file does not exist, its network cannot be read without running code, it has unsupported tensors,
            its policy and value network differ in depth, kernel sizes or strides, or the trunk needs too much memory.
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
        if unknown := network.unused():
            raise ValueError(f"it has {_listed(unknown)}, which would be lost")
        layers, act, assess = concatenate(policy, value, actor[0], critic[0])
    except UserError:
        raise
    except (LookupError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"'{file}' cannot become a run: {error} (expected a policy of stable-baselines3)") from error
    steps = metadata.get("num_timesteps")
    env_steps = steps if isinstance(steps, int) and 0 <= steps < 10**15 else 0
    return ExternalAgent(
        layers, _activation(file, network, options), (act, actor[1]), (assess, critic[1]), log_std, env_steps
    )


def _contents(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the JSON metadata and the tensors of the policy."""
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
    """Raise UserError for agents that the run's network cannot represent."""
    described = metadata.get("policy_class")
    module = str(described.get("__module__", _SB3)) if isinstance(described, dict) else _SB3
    reasons = {
        "it has no action_net and value_net: expected PPO or A2C": not {"action_net.weight", "value_net.weight"}
        <= set(tensors),
        "it is recurrent": any("lstm" in name for name in tensors),
        "it has several inputs (MultiInputPolicy)": any(".extractors." in name for name in tensors),
        "its exploration depends on the state (use_sde)": bool(metadata.get("use_sde")),
        "it does not normalise images (normalize_images=False)": options.get("normalize_images") is False,
        "it normalises its observations (blip-rl export)": any("_extractor.flatten." in name for name in tensors),
        "it squashes its actions (squash_output)": bool(options.get("squash_output")),
        f"its policy is a custom class from the module {module[:80]!r}": not module.startswith(_SB3),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"'{file}' cannot become a run: {reason}")


class _Network:
    """The tensors of a policy by name; tracks which of them have been used.

    The methods raise LookupError or ValueError if a tensor is missing or is not what they expect.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._used: set[str] = set()

    def has(self, *prefixes: str) -> bool:
        """Return whether a name starts with one of the prefixes."""
        return any(name.startswith(prefixes) for name in self.tensors)

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer."""
        weight, bias = self._take(f"{name}.weight"), self._take(f"{name}.bias")
        if weight.dim() not in (2, 4) or bias.shape != weight.shape[:1] or 0 in weight.shape:
            raise ValueError(
                f"{name!r} has a weight of shape {tuple(weight.shape)} and a bias of shape {tuple(bias.shape)}"
            )
        return weight, bias

    def layers(self, prefix: str, strides: Sequence[int] | None = None) -> list[ExternalLayer]:
        """Return the layers of an ``nn.Sequential`` in which layers and activations alternate."""
        found = sorted(
            {name.removeprefix(prefix).partition(".")[0] for name in self.tensors if name.startswith(prefix)}
        )
        count = len(found)
        if set(found) != {str(2 * index) for index in range(count)}:
            raise ValueError(f"{prefix!r} has modules {_listed(found)}: expected layers with activations between them")
        layers = [self.layer(f"{prefix}{2 * index}") for index in range(count)]
        return [ExternalLayer(*layer, stride) for layer, stride in zip(layers, strides or [0] * count, strict=True)]

    def log_std(self) -> Tensor | None:
        """Return the logarithm of the standard deviation of continuous actions; None for discrete actions."""
        if "log_std" not in self.tensors:
            return None
        found = self._take("log_std")
        if found.dim() != 1 or not found.exp().isfinite().all():
            raise ValueError("'log_std' does not contain one finite value per action dimension")
        return found

    def drop_copies(self, prefix: str, of: str) -> None:
        """Mark tensors as used that are copies of others."""
        for name in [name for name in self.tensors if name.startswith(prefix)]:
            if not torch.equal(self._take(name), self.tensors[of + name.removeprefix(prefix)].float()):
                raise ValueError(f"{name!r} differs from the one below {of!r}")

    def unused(self) -> list[str]:
        return [name for name in self.tensors if name not in self._used]

    def _take(self, name: str) -> Tensor:
        """Return a finite tensor as float32 and mark it as used."""
        self._used.add(name)
        tensor = self.tensors[name].detach()
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{name!r} is not floating point or has values that are not finite ({tensor.dtype})")
        if not tensor.float().isfinite().all():
            raise ValueError(f"{name!r} contains {tensor.abs().max().item():.3g}, which is out of the range of float32")
        return tensor.float()


def _path(network: _Network, part: str, options: dict[str, Any]) -> list[ExternalLayer]:
    """Return the layers from observations to the features of the policy or of the value function."""
    extractor = next((p for p in (f"{_SHORT[part]}features_extractor.", "features_extractor.") if network.has(p)), None)
    layers = []
    if extractor is not None:  # None: a FlattenExtractor, which has no tensors
        strides = _strides(str(options.get("features_extractor_class", "")))
        layers += [*network.layers(f"{extractor}cnn.", strides), *network.layers(f"{extractor}linear.")]
    # stable-baselines3 before 1.8 could share the first layers of policy and value function.
    return [*layers, *network.layers("mlp_extractor.shared_net."), *network.layers(f"mlp_extractor.{part}_net.")]


def _check_extractor(file: Path, network: _Network, options: dict[str, Any]) -> None:
    """Check that a features extractor, if any, is a ``NatureCNN`` or was written by ``blip-rl export``."""
    modules = {
        name.partition("features_extractor.")[2].partition(".")[0]
        for name in network.tensors
        if name.startswith(("features_extractor.", *(f"{part}features_extractor." for part in _SHORT.values())))
    }
    if modules and (modules != {"cnn", "linear"} or _strides(str(options.get("features_extractor_class", ""))) is None):
        raise UserError(
            f"'{file}' has a custom features extractor: expected NatureCNN of stable-baselines3, or a file written by "
            "blip-rl export (other extractors are defined by code in the file, which is not run)"
        )
    if network.has("pi_features_extractor."):
        network.drop_copies("features_extractor.", of="pi_features_extractor.")


def _strides(described: str) -> tuple[int, ...] | None:
    """Return the strides of a ``NatureCNN`` or those in the repr written by ``blip-rl export``; None: another class."""
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


def _activation(file: Path, network: _Network, options: dict[str, Any]) -> str:
    """Return the activation, which must be the same for all layers."""
    words = {name for name in _ACTIVATIONS if f"{name}(" in str(options.get("features_extractor_class", ""))}
    found = words or ({"ReLU"} if network.has("features_extractor.", "pi_features_extractor.") else set())
    if network.has("mlp_extractor."):  # Tanh is the default of stable-baselines3
        found |= {str(options.get("activation_fn", "Tanh")).removesuffix("'>").rpartition(".")[2]}
    if len(found) != 1 or not found <= set(_ACTIVATIONS):
        named = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"'{file}' has the activations {named[:200]}: "
            f"expected the same for all layers, one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[found.pop()]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
