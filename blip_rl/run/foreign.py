"""The network inside a stable-baselines3 zip, read without running any code of the file.

Such a file is meant to be unpickled, and unpickling runs whatever its author wrote into it. Here only its tensors are
read, with torch's loader for tensors alone, and what its JSON says in plain words: kinds of layers, steps trained.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from blip_rl.errors import UserError
from blip_rl.untrusted.files import parsed

_MOST_BYTES = {"data": 500_000_000, "policy.pth": 2_000_000_000}
_NATURE_STRIDES = (4, 2, 1)
_WHAT_TORCH_RAISES = (RuntimeError, LookupError, TypeError, ValueError, AttributeError)
_ACTIVATIONS = {"ReLU": "relu", "Tanh": "tanh", "ELU": "elu", "SiLU": "silu"}


@dataclass(frozen=True)
class ForeignLayer:
    """A layer in front of an activation; ``stride`` is 0 for one that is fully connected."""

    weight: Tensor
    bias: Tensor
    stride: int = 0


@dataclass(frozen=True)
class ForeignAgent:
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

    policy: Sequence[ForeignLayer]
    value: Sequence[ForeignLayer]
    activation: str
    actor: tuple[Tensor, Tensor]
    critic: tuple[Tensor, Tensor]
    log_std: Tensor | None
    env_steps: int


def read_agent(file: Path) -> ForeignAgent:
    """Read the network of a PPO or A2C.

    Raises:
        UserError: no such file, or not one whose network can be read without running its code.
    """
    facts, tensors = _contents(file)
    options = facts.get("policy_kwargs")
    options = options if isinstance(options, dict) else {}
    _check_kind(file, facts, options, tensors)
    try:
        policy, value = (
            [*_extractor(file, tensors, f"{part}_", options), *_layers(tensors, f"mlp_extractor.{name}.")]
            for part, name in (("pi", "policy_net"), ("vf", "value_net"))
        )
        actor, critic = (_pair(tensors, name) for name in ("action_net", "value_net"))
    except UserError:
        raise
    except (LookupError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"'{file}' is not one of stable-baselines3's usual policies: {error}") from error
    if not policy or not value:
        raise UserError(f"'{file}' cannot become a run: it has no layer between observations and actions")
    activation = _activation(file, tensors, options)
    return ForeignAgent(policy, value, activation, actor, critic, tensors.get("log_std"), _steps(facts))


def _contents(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The file's JSON and its policy's tensors."""
    try:
        with zipfile.ZipFile(file) as archive:
            text, weights = (_member(file, archive, name) for name in ("data", "policy.pth"))
        tensors = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror or error}") from error
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, UnpicklingError, *_WHAT_TORCH_RAISES) as error:
        raise UserError(f"'{file}' is no zip of stable-baselines3, or damaged: {str(error)[:200]}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"'{file}': policy.pth holds no tensors by name: expected a file of stable-baselines3")
    facts = parsed(f"'{file}': data", "JSON", json.loads, text.decode("utf-8", "replace"))
    return facts if isinstance(facts, dict) else {}, tensors


def _member(file: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise UserError(f"'{file}' has no {name!r} in it: expected a zip that stable-baselines3 saved")
    with archive.open(name) as stream:
        content = stream.read(_MOST_BYTES[name] + 1)
    if len(content) > _MOST_BYTES[name]:
        raise UserError(f"'{file}': {name!r} is larger than {_MOST_BYTES[name]:,} bytes: no agent of this size is read")
    return content


def _check_kind(file: Path, facts: dict[str, Any], options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse what our network cannot be."""
    reasons = {
        "it has no action_net and value_net: expected PPO or A2C": not {"action_net.weight", "value_net.weight"}
        <= set(tensors),
        "it is recurrent": any("lstm" in name for name in tensors),
        "it has several inputs": any(".extractors." in name for name in tensors),
        "its exploration depends on the state (use_sde)": bool(facts.get("use_sde")),
        "it takes images as they are (normalize_images=False)": options.get("normalize_images") is False,
        "it squashes its actions (squash_output)": bool(options.get("squash_output")),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"'{file}' cannot become a run: {reason}")


def _extractor(file: Path, tensors: dict[str, Tensor], part: str, options: dict[str, Any]) -> list[ForeignLayer]:
    """Layers of a features extractor; of a ``FlattenExtractor`` there are none."""
    prefix = next((p for p in (f"{part}features_extractor.", "features_extractor.") if _any(tensors, p)), None)
    if prefix is None:
        return []
    strange = [
        n for n in tensors if n.startswith(prefix) and not n.removeprefix(prefix).startswith(("cnn.", "linear."))
    ]
    strides = _strides(str(options.get("features_extractor_class", "")))
    if strange or strides is None:
        raise UserError(
            f"'{file}' has a features extractor of its author's own: expected stable-baselines3's NatureCNN, or a file "
            "of blip-rl export (others are known only to the code in the file, which is not run)"
        )
    return [*_layers(tensors, f"{prefix}cnn.", strides), *_layers(tensors, f"{prefix}linear.")]


def _strides(described: str) -> tuple[int, ...] | None:
    """Strides of a ``NatureCNN``, or as ``blip-rl export`` writes them down; None for another class."""
    if described in ("", "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"):
        return _NATURE_STRIDES
    if "NatureCNN(" not in described or "padding" in described:
        return None
    return tuple(int(stride) for stride in re.findall(r"Conv2d\(.*?stride=\((\d+), \1\)\)", described))


def _layers(tensors: dict[str, Tensor], prefix: str, strides: Sequence[int] | None = None) -> list[ForeignLayer]:
    """Layers of an ``nn.Sequential``, in its order."""
    numbers = sorted(
        int(n.removeprefix(prefix).split(".")[0]) for n in tensors if re.match(rf"{prefix}\d+\.weight$", n)
    )
    layers = [_pair(tensors, f"{prefix}{number}") for number in numbers]
    if strides is None:
        return [ForeignLayer(*layer) for layer in layers]
    return [ForeignLayer(*layer, stride) for layer, stride in zip(layers, strides, strict=True)]


def _pair(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer.

    Raises:
        LookupError, ValueError: one is missing, or they are no layer's.
    """
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if weight.dim() not in (2, 4) or bias.shape != weight.shape[:1] or 0 in weight.shape:
        raise ValueError(f"{name!r} has weights of {tuple(weight.shape)} and biases of {tuple(bias.shape)}")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"{name!r} holds numbers that are not finite")
    return weight, bias


def _activation(file: Path, tensors: dict[str, Tensor], options: dict[str, Any]) -> str:
    """The one activation of all layers."""
    words = {name for name in _ACTIVATIONS if f"{name}(" in str(options.get("features_extractor_class", ""))}
    found = words or ({"ReLU"} if _any(tensors, "features_extractor.", "pi_features_extractor.") else set())
    if _any(tensors, "mlp_extractor."):  # Tanh is the default of stable-baselines3
        found |= {str(options.get("activation_fn", "Tanh")).removesuffix("'>").rpartition(".")[2]}
    if len(found) != 1 or not found <= set(_ACTIVATIONS):
        named = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"'{file}' has the activations {named}: expected one for all layers, out of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[found.pop()]


def _any(tensors: dict[str, Tensor], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in tensors)


def _steps(facts: dict[str, Any]) -> int:
    steps = facts.get("num_timesteps")
    return steps if isinstance(steps, int) and 0 <= steps < 10**15 else 0
