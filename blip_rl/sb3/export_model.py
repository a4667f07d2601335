"""One task's agent as a plain stable-baselines3 PPO, which is opened without this package.

Everything of ours is folded into ordinary layers: the task's scale and shift, and the mixing of its observations.
Vector tasks are an ``MlpPolicy`` (policy and values each get a copy of the trunk). Image tasks are a ``CnnPolicy``.
Its ``NatureCNN`` has fixed layers, and a class of ours could be embedded only as bytecode, which another Python does
not read. So the file holds a ``NatureCNN`` whose layers are ours, written down as the calls that build them: classes of
torch and stable-baselines3, no code.
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
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor, nn

from blip_rl.config import PpoConfig
from blip_rl.learner.policy import ContinualPolicy, TaskModule
from blip_rl.learner.ppo import stable_baselines_hyperparameters

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Standalone:
    """One task's agent in terms of ordinary layers.

    Attributes:
        layers: Each is followed by the activation; convolutions first.
        activation: Class of torch.
        task: Actor, critic and, for continuous actions, the logarithm of their standard deviation.
    """

    layers: Sequence[Layer]
    activation: type[nn.Module]
    task: TaskModule

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The layers over images."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]

    @property
    def linear(self) -> list[nn.Linear]:
        """The other layers."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


@torch.no_grad()
def standalone(policy: ContinualPolicy, task: int, mix: Tensor | None = None) -> Standalone:
    """Fold all that is a task's own into copies of the trunk's layers.

    Args:
        policy: The agent; its trunk is as the task is played.
        task: Number of the task, counted from 1.
        mix: (inputs, inputs) matrix that the task's observations are multiplied by before the agent sees them.
    """
    module, trunk = cast(TaskModule, policy.tasks[task - 1]), policy.trunk
    layers = [_copy(cast(Layer, trunk.get_submodule(name))) for name in trunk.layer_names]
    for layer, modulation in zip(layers, module.modulations, strict=False):  # there are none, or one for each layer
        scale, shift = cast(Tensor, modulation.scale), cast(Tensor, modulation.shift)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        cast(Tensor, layer.bias).mul_(scale).add_(shift)
    if mix is not None:
        layers[0].weight.copy_(layers[0].weight @ mix)
    return Standalone(layers, type(trunk._activation), module)


def plain_ppo(
    agent: Standalone, observations: spaces.Box, actions: spaces.Space[Any], ppo: PpoConfig, env_steps: int
) -> PPO:
    """Build stable-baselines3's PPO with the agent's network, ready to be saved.

    Args:
        agent: The network.
        observations: What the game shows.
        actions: What it takes.
        ppo: Numbers for whoever trains it further.
        env_steps: Steps it has been trained for.
    """
    model = _untrained_ppo(ppo)
    model.observation_space, model.action_space, model.n_envs = observations, actions, ppo.environments
    extractor = _extractor(agent, observations) if agent.convolutions else None
    model.policy_class = ActorCriticPolicy if extractor is None else PPO.policy_aliases["CnnPolicy"]
    model.policy_kwargs = _policy_options(agent, extractor, ppo)
    model._setup_model()
    model.policy.load_state_dict(_state(agent, model.policy.state_dict()))
    model.num_timesteps = env_steps
    if extractor is not None:  # from here on only written down
        model.policy_kwargs |= {"features_extractor_class": _constant_factory(_as_calls(extractor))}
    return model


def _untrained_ppo(ppo: PpoConfig) -> PPO:
    numbers = stable_baselines_hyperparameters(ppo)
    if ppo.learning_rate_schedule == "linear":  # the schedule of training is a closure, which a zip cannot hold
        numbers["learning_rate"] = LinearSchedule(ppo.learning_rate, 0.0, 1.0)
    return PPO("MlpPolicy", cast(Any, None), **numbers, device="cpu", _init_setup_model=False)


def _policy_options(agent: Standalone, extractor: NatureCNN | None, ppo: PpoConfig) -> dict[str, Any]:
    # Initial weights would only be overwritten, and orthogonal ones of a large layer take a second.
    options: dict[str, Any] = {"optimizer_kwargs": {"eps": ppo.adam_epsilon}, "ortho_init": False}
    if extractor is not None:
        return {**options, "net_arch": [], "features_extractor_class": _constant_factory(extractor)}
    sizes = [layer.out_features for layer in agent.linear]
    return {**options, "net_arch": {"pi": sizes, "vf": sizes}, "activation_fn": agent.activation}


def _state(agent: Standalone, names: dict[str, Tensor]) -> dict[str, Tensor]:
    """The agent's tensors under the names of stable-baselines3's policy."""
    named: dict[str, Any] = {"action_net": agent.task.actor, "value_net": agent.task.critic}
    pairs = [
        *((f"cnn.{2 * index}", layer) for index, layer in enumerate(agent.convolutions)),
        *((f"linear.{2 * index}", layer) for index, layer in enumerate(agent.linear)),
    ]
    for prefix in ("features_extractor", "pi_features_extractor", "vf_features_extractor"):
        named |= {f"{prefix}.{name}": layer for name, layer in pairs}
    for prefix in ("mlp_extractor.policy_net", "mlp_extractor.value_net"):
        named |= {f"{prefix}.{2 * index}": layer for index, layer in enumerate(agent.linear)}
    tensors = {f"{name}.{kind}": getattr(layer, kind) for name, layer in named.items() for kind in ("weight", "bias")}
    if agent.task.log_std is not None:
        tensors["log_std"] = agent.task.log_std
    return {name: tensors[name].detach() for name in names}


def _copy(layer: Layer) -> Layer:
    made: Layer = _layer_call(layer).build()
    made.load_state_dict(layer.state_dict())
    return made


def _extractor(agent: Standalone, observations: spaces.Box) -> NatureCNN:
    """A ``NatureCNN`` whose layers are the agent's; its own could not be built for every size of frames."""
    extractor = NatureCNN.__new__(NatureCNN)
    BaseFeaturesExtractor.__init__(extractor, observations, agent.linear[-1].out_features)
    extractor.cnn = nn.Sequential(*_activated(agent.convolutions, agent.activation), nn.Flatten())
    extractor.linear = nn.Sequential(*_activated(agent.linear, agent.activation))
    return extractor


def _activated(layers: Sequence[Layer], activation: type[nn.Module]) -> list[nn.Module]:
    return [module for layer in layers for module in (_layer_call(layer).build(), activation())]


def _constant_factory(extractor: object) -> Callable[..., Any]:
    """What stable-baselines3 calls for a features extractor, with the observation space: gives this one."""
    return functools.partial(dict.get, cast(Any, {"trunk": extractor}), "trunk")


class _Call:
    """Is pickled as a call, and so unpickled as what the call returns; reads as that does."""

    def __init__(self, made: Callable[..., Any], *arguments: Any, state: dict[str, Any] | None = None) -> None:
        self._parts = (made, arguments) if state is None else (made, arguments, state)
        self._repr = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return self._parts

    def __repr__(self) -> str:
        return self._repr

    def build(self) -> Any:
        """Make the call."""
        return self._parts[0](*self._parts[1])

    def with_repr(self, what: object) -> _Call:
        """Read as this does."""
        self._repr = repr(what)
        return self


def _as_calls(extractor: NatureCNN) -> _Call:
    """The calls that build an extractor, its weights left out: stable-baselines3 keeps those elsewhere."""
    parts = {
        name: _Call(nn.Sequential, *(_layer_call(layer) for layer in cast(nn.Sequential, part)))
        for name, part in extractor.named_children()
    }
    state = {**vars(extractor), "_modules": parts}
    return _Call(object.__new__, NatureCNN, state=state).with_repr(extractor)


def _layer_call(layer: nn.Module) -> _Call:
    if isinstance(layer, nn.Linear):
        return _Call(nn.Linear, layer.in_features, layer.out_features)
    if isinstance(layer, nn.Conv2d):
        return _Call(nn.Conv2d, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    return _Call(type(layer))
