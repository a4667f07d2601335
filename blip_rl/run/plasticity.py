"""The plasticity panel of a run: how able to learn each layer still is, measured on the same states every time.

The states are some of the current task's first rollout, taken without a random draw; nothing here touches a random
stream, a gradient or a weight that training uses, so a run learns the same to the bit with the panel as without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from blip_rl.core import plasticity
from blip_rl.core.fisher import diagonal_fisher
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.trunk import Trunk
from blip_rl.methods.base import Method
from blip_rl.records import Phase, PlasticityRow
from blip_rl.storage.run_folder import RunFolder

STATES = 256
_GRADIENT_STRIDE = 4
"""Every fourth state is enough for the gradient's norm, which costs a pass of the Fisher over the states."""


@dataclass(frozen=True)
class LayerPlasticity:
    """One layer's figures; see :mod:`blip_rl.core.plasticity`. ``free_bits`` is None where no bits freeze."""

    dormant_share: float
    effective_rank: float
    gradient_norm: float
    free_bits: float | None


@dataclass(frozen=True)
class _Watched:
    policy: ContinualPolicy
    task: str
    observations: Tensor


class PlasticityPanel:
    """Measures what it watches and writes it into ``plasticity.csv`` and TensorBoard."""

    def __init__(self, folder: RunFolder, logger: Logger, method: Method) -> None:
        self._folder, self._logger, self._method = folder, logger, method
        self._watched: _Watched | None = None

    def states_of(self, task: str) -> Tensor | None:
        """What is measured on while this task is learned; None where that is not known yet."""
        return self._watched.observations if self._watched is not None and self._watched.task == task else None

    def watch(self, policy: ContinualPolicy, observations: Tensor) -> None:
        """From now on measure the task in use, on some of these states.

        Args:
            policy: The agent's, with the task in use.
            observations: (states, ...) of the task, raw, on any device: those of a snapshot are on the CPU.
        """
        states = evenly_spaced_states(observations).to(policy.device)
        self._watched = _Watched(policy, policy.current_name, states)

    def record(self, stage: int, phase: Phase, env_steps: int) -> None:
        """Measure and write every layer; nothing before :meth:`watch`."""
        if self._watched is None:
            return
        watched = self._watched
        layers = measure(watched.policy, self._method, watched.task, watched.observations)
        self._folder.add_plasticity(
            PlasticityRow(env_steps, stage, phase, layer, **vars(figures)) for layer, figures in layers.items()
        )
        if phase == "before":  # the same step as after: a second point there would hide the first
            return
        for layer, figures in layers.items():
            for name, value in vars(figures).items():
                if value is not None:
                    self._logger.record(f"plasticity/{layer}/{name}", value)


def evenly_spaced_states(observations: Tensor, states: int = STATES) -> Tensor:
    """A copy of up to ``states`` of them, evenly spaced; no random draw."""
    rows = torch.linspace(0, len(observations) - 1, min(states, len(observations))).round().long()
    return observations[rows.to(observations.device)]


def measure(policy: ContinualPolicy, method: Method, task: str, observations: Tensor) -> dict[str, LayerPlasticity]:
    """Every trunk layer's figures, with the weights that play the task.

    Args:
        policy: Knows the task.
        method: May change what the trunk is while the task is played.
        task: Whose head, and modulation if it has one.
        observations: (states, ...), raw, on the policy's device.

    Returns:
        Layer → figures, in the trunk's order.
    """
    trunk = policy.trunk
    with policy.using_task(task), method.playing(trunk, policy.task_names.index(task) + 1):
        activations = _activations(trunk, policy.preprocess(observations))
        fisher = diagonal_fisher(
            trunk,
            policy.head,
            observations[::_GRADIENT_STRIDE],
            preprocess=policy.preprocess,
            generator=torch.Generator().manual_seed(0),
        )
    frozen = method.frozen_bits()
    return {
        layer: LayerPlasticity(
            dormant_share=plasticity.dormant_share(activations[layer]),
            effective_rank=plasticity.effective_rank(activations[layer]),
            gradient_norm=plasticity.gradient_norm(f for name, f in fisher.items() if name.startswith(f"{layer}.")),
            free_bits=plasticity.free_bits(frozen[f"{layer}.weight"], method.total_bits) if frozen else None,
        )
        for layer in trunk.layer_names
    }


@torch.no_grad()
def _activations(trunk: Trunk, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer gives on after its activation function."""
    outputs: list[Tensor] = []
    # Behind the activation rather than the layer: in place, it would overwrite what a layer's own hook has kept.
    activation = trunk.get_submodule("_activation")
    handle = activation.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        trunk(inputs)
    finally:
        handle.remove()
    return dict(zip(trunk.layer_names, outputs, strict=True))
