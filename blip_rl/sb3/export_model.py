"""Convert the agent of one task to a plain stable-baselines3 PPO that loads without this package.

Task-specific modulation (scale and shift) and the mixing of observations are folded into ordinary layers. Vector tasks
use an ``MlpPolicy`` in which policy and value network each get a copy of the trunk. Normalised observations are clipped
before the first layer, so their normalisation is a layer and a ``Hardtanh`` in the policy's ``FlattenExtractor``. Image
tasks use a ``CnnPolicy``.
The layers of ``NatureCNN`` are fixed, and a custom extractor class could be pickled only as bytecode, which depends on
the Python version. So the file contains a ``NatureCNN`` with replaced layers, pickled as the calls that build them: it
refers to classes of torch and stable-baselines3 only and contains no code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor, nn

from blip_rl.agent_config import PpoConfig
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.ppo import stable_baselines_hyperparameters
from blip_rl.learner.task_module import TaskModule

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Standalone:
    """The agent of one task, expressed in ordinary layers.

    Attributes:
        layers: Layers of the trunk, convolutions first; each is followed by the activation.
        activation: Activation class of torch.
        task: Actor, critic and, for continuous actions, the logarithm of the standard deviation.
        normalization: Layers that normalise observations before the trunk; empty if it takes them as they are.
    """

    layers: Sequence[Layer]
    activation: type[nn.Module]
    task: TaskModule
    normalization: Sequence[nn.Module] = ()

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """Convolutional layers."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    @property
    def linear(self) -> list[nn.Linear]:
        """Fully connected layers."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


@torch.no_grad()
def standalone(policy: ContinualPolicy, task: int, mix: Tensor | None = None) -> Standalone:
    """Fold the task-specific transformations into copies of the trunk's layers.

    Modulation: γ ⊙ (W x + b) + β = (γ ⊙ W) x + (γ ⊙ b + β). Mixing: W (M x) = (W M) x.

    Args:
        policy: The agent, with the trunk weights that the task is played with.
        task: Number of the task, counted from 1.
        mix: Matrix M, shape (inputs, inputs), that multiplies the observations; None: no mixing.
    """
    module, trunk = policy.module_of(task - 1), policy.trunk
    layers = [_copy(cast(Layer, trunk.get_submodule(name))) for name in trunk.layer_names]
    for layer, modulation in zip(layers, module.modulations, strict=False):  # empty without task modulation
        scale, shift = cast(Tensor, modulation.scale), cast(Tensor, modulation.shift)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        cast(Tensor, layer.bias).mul_(scale).add_(shift)
    normalization = module.normalizer.as_layers(mix)
    if mix is not None and not normalization:
        layers[0].weight.copy_(layers[0].weight @ mix)
    return Standalone(layers, type(trunk._activation), module, normalization)


def plain_ppo(
    agent: Standalone, observations: spaces.Box, actions: spaces.Space[Any], ppo: PpoConfig, env_steps: int
) -> PPO:
    """Build a stable-baselines3 PPO with the network of the agent, ready to be saved.

    Args:
        agent: The network.
        observations: Observation space of the game.
        actions: Action space of the game.
        ppo: Hyperparameters, stored for further training.
        env_steps: Number of training steps so far.
    """
    model = _untrained_ppo(ppo)
    model.observation_space, model.action_space, model.n_envs = observations, actions, ppo.environments
    extractor = _extractor(agent, observations)
    model.policy_class = PPO.policy_aliases["CnnPolicy"] if agent.convolutions else ActorCriticPolicy
    model.policy_kwargs = _policy_options(agent, extractor, ppo)
    model._setup_model()
    model.policy.load_state_dict(_state(agent, model.policy.state_dict()))
    model.num_timesteps = env_steps
    if extractor is not None:  # replace the extractor by its pickled form (see _Call)
        model.policy_kwargs |= {"features_extractor_class": _constant_factory(_as_calls(extractor))}
    return model


def _untrained_ppo(ppo: PpoConfig) -> PPO:
    numbers = stable_baselines_hyperparameters(ppo)
    if ppo.learning_rate_schedule == "linear":  # the schedule used in training is a closure, which cannot be pickled
        numbers["learning_rate"] = LinearSchedule(ppo.learning_rate, 0.0, 1.0)
    return PPO("MlpPolicy", cast(Any, None), **numbers, device="cpu", _init_setup_model=False)


def _policy_options(agent: Standalone, extractor: BaseFeaturesExtractor | None, ppo: PpoConfig) -> dict[str, Any]:
    # Weights are overwritten anyway, and orthogonal initialisation of a large layer takes a second.
    options: dict[str, Any] = {"optimizer_kwargs": {"eps": ppo.adam_epsilon}, "ortho_init": False}
    if extractor is not None:
        options["features_extractor_class"] = _constant_factory(extractor)
    if agent.convolutions:
        return {**options, "net_arch": []}
    sizes = [layer.out_features for layer in agent.linear]
    return {**options, "net_arch": {"pi": sizes, "vf": sizes}, "activation_fn": agent.activation}


def _state(agent: Standalone, names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the agent's tensors as a state dict of the stable-baselines3 policy."""
    named: dict[str, Any] = {"action_net": agent.task.actor, "value_net": agent.task.critic}
    pairs = [
        *((f"cnn.{2 * index}", layer) for index, layer in enumerate(agent.convolutions)),
        *((f"linear.{2 * index}", layer) for index, layer in enumerate(agent.linear)),
        *((f"flatten.{index}", layer) for index, layer in enumerate(agent.normalization, start=1)),
    ]
    for prefix in ("features_extractor", "pi_features_extractor", "vf_features_extractor"):
        named |= {f"{prefix}.{name}": layer for name, layer in pairs}
    for prefix in ("mlp_extractor.policy_net", "mlp_extractor.value_net"):
        named |= {f"{prefix}.{2 * index}": layer for index, layer in enumerate(agent.linear)}
    tensors = {f"{name}.{kind}": tensor for name, layer in named.items() for kind, tensor in layer.named_parameters()}
    if agent.task.log_std is not None:
        tensors["log_std"] = agent.task.log_std
    return {name: tensors[name].detach() for name in names}


def _copy(layer: Layer) -> Layer:
    made: Layer = _layer_call(layer).build()
    made.load_state_dict(layer.state_dict())
    return made


def _extractor(agent: Standalone, observations: spaces.Box) -> BaseFeaturesExtractor | None:
    """Build the features extractor; None: stable-baselines3's own, without parameters."""
    if agent.convolutions:
        return _convolutional(agent, observations)
    if not agent.normalization:
        return None
    extractor = FlattenExtractor(observations)
    extractor.flatten = cast(Any, nn.Sequential(nn.Flatten(), *(_layer_call(m).build() for m in agent.normalization)))
    return extractor


def _convolutional(agent: Standalone, observations: spaces.Box) -> NatureCNN:
    """Build a ``NatureCNN`` with the layers of the agent. Its constructor is skipped: it rejects small frames."""
    extractor = NatureCNN.__new__(NatureCNN)
    BaseFeaturesExtractor.__init__(extractor, observations, agent.linear[-1].out_features)
    extractor.cnn = nn.Sequential(*_activated(agent.convolutions, agent.activation), nn.Flatten())
    extractor.linear = nn.Sequential(*_activated(agent.linear, agent.activation))
    return extractor


def _activated(layers: Sequence[Layer], activation: type[nn.Module]) -> list[nn.Module]:
    return [module for layer in layers for module in (_layer_call(layer).build(), activation())]


def _constant_factory(extractor: object) -> Callable[..., Any]:
    """Return a picklable callable that ignores its argument and returns the given extractor.

    stable-baselines3 calls ``features_extractor_class(observation_space)``. Here the argument is the unused
    default of ``dict.get``. A lambda would be pickled as bytecode, which depends on the Python version.
    """
    return functools.partial(dict.get, cast(Any, {"trunk": extractor}), "trunk")


class _Call:
    """An object that is pickled as a call, so that unpickling returns the result of the call."""

    def __init__(self, made: Callable[..., Any], *arguments: Any, state: dict[str, Any] | None = None) -> None:
        self._parts = (made, arguments) if state is None else (made, arguments, state)
        self._repr = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return self._parts

    def __repr__(self) -> str:
        return self._repr

    def build(self) -> Any:
        """Return the result of the call."""
        return self._parts[0](*self._parts[1])

    def with_repr(self, what: object) -> _Call:
        """Set ``repr`` to that of another object: stable-baselines3 writes it into the zip's JSON."""
        self._repr = repr(what)
        return self


def _as_calls(extractor: BaseFeaturesExtractor) -> _Call:
    """Return the calls that rebuild an extractor without weights, which stable-baselines3 stores in policy.pth."""
    parts = {
        name: _Call(nn.Sequential, *(_layer_call(layer) for layer in cast(nn.Sequential, part)))
        for name, part in extractor.named_children()
    }
    state = {**vars(extractor), "_modules": parts}
    return _Call(object.__new__, type(extractor), state=state).with_repr(extractor)


def _layer_call(layer: nn.Module) -> _Call:
    if isinstance(layer, nn.Linear):
        return _Call(nn.Linear, layer.in_features, layer.out_features)
    if isinstance(layer, nn.Conv2d):
        return _Call(nn.Conv2d, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    if isinstance(layer, nn.Hardtanh):
        return _Call(nn.Hardtanh, layer.min_val, layer.max_val)
    return _Call(type(layer))
