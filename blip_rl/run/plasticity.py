"""Plasticity of each trunk layer, measured at every evaluation on the same observations of the current task.

The observations are a subset of the task's first rollout, chosen without a random draw. Measuring leaves random
generators, gradients and weights unchanged, so training is bit-identical with and without it.
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
"""Use every fourth observation for the gradient norm: it takes a pass of the diagonal Fisher over them."""


@dataclass(frozen=True)
class LayerPlasticity:
    """Plasticity metrics of one layer, see :mod:`blip_rl.core.plasticity`; ``free_bits`` is None if none freeze."""

    dormant_share: float
    effective_rank: float
    gradient_norm: float
    free_bits: float | None


@dataclass(frozen=True)
class _Subject:
    policy: ContinualPolicy
    task: str
    observations: Tensor


class PlasticityRecorder:
    """Measures plasticity and writes it to ``plasticity.csv`` and TensorBoard."""

    def __init__(self, folder: RunFolder, logger: Logger, method: Method) -> None:
        self._folder, self._logger, self._method = folder, logger, method
        self._subject: _Subject | None = None

    def states_of(self, task: str) -> Tensor | None:
        """Return the observations used for a task, (states, ...); None if :meth:`measure_on` has set none."""
        return self._subject.observations if self._subject is not None and self._subject.task == task else None

    def forget(self) -> None:
        """Measure nothing until :meth:`measure_on` is called again."""
        self._subject = None

    def measure_on(self, policy: ContinualPolicy, observations: Tensor) -> None:
        """Measure the policy's current task from now on, on at most ``STATES`` of these observations.

        Args:
            policy: The agent's policy.
            observations: (states, ...), unprocessed, of the current task, on any device.
        """
        states = evenly_spaced_states(observations).to(policy.device)
        self._subject = _Subject(policy, policy.current_name, states)

    def record(self, stage: int, phase: Phase, env_steps: int) -> None:
        """Measure and write every layer; does nothing before :meth:`measure_on`."""
        if self._subject is None:
            return
        subject = self._subject
        layers = measure(subject.policy, self._method, subject.task, subject.observations)
        self._folder.add_plasticity(
            PlasticityRow(env_steps, stage, phase, layer, **vars(metrics)) for layer, metrics in layers.items()
        )
        if phase == "before":  # same step as `after`: TensorBoard would show both points on top of each other
            return
        for layer, metrics in layers.items():
            for name, value in vars(metrics).items():
                if value is not None:
                    self._logger.record(f"plasticity/{layer}/{name}", value)


def evenly_spaced_states(observations: Tensor, states: int = STATES) -> Tensor:
    """Return a copy of at most ``states`` evenly spaced observations; draws no random numbers."""
    rows = torch.linspace(0, len(observations) - 1, min(states, len(observations))).round().long()
    return observations[rows.to(observations.device)]


def measure(policy: ContinualPolicy, method: Method, task: str, observations: Tensor) -> dict[str, LayerPlasticity]:
    """Measure the plasticity of every trunk layer.

    Args:
        policy: Has a head for the task.
        method: Protects earlier tasks; may mask trunk weights while the task is played.
        task: Name of the task whose head and modulation are used.
        observations: (states, ...), unprocessed, on the policy's device.

    Returns:
        Layer name → metrics, in the trunk's order.
    """
    trunk = policy.trunk
    with policy.using_task(task), method.playing(policy.protected, policy.task_names.index(task) + 1):
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
    """Return layer name → output of its activation function, (states, units, ...)."""
    outputs: list[Tensor] = []
    # Hook the activation, not the layers: it works in place and would overwrite outputs kept by a layer's hook.
    activation = trunk.get_submodule("_activation")
    handle = activation.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        trunk(inputs)
    finally:
        handle.remove()
    return dict(zip(trunk.layer_names, outputs, strict=True))
