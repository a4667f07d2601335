"""Distil the policy of a task that was learned apart into the trunk that all tasks share.

The teacher is the trunk and the task's module as they were learned. The student is the shared trunk with a new module,
under the method's protection. With π_T, V_T of the teacher and π, V of the student, each minibatch of states minimises

    mean over s of  KL(π_T(·|s) ‖ π(·|s)) + (V(s) − V_T(s))²

where the second term reaches the critic alone. The first half of the updates is on states that the teacher plays, the
second half also on states that the student plays, as in DAgger (Ross et al. 2011, arXiv 1011.0686): it then learns to
leave the situations that its own errors lead to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from blip_rl.config import DistilConfig
from blip_rl.core.policies import divergence, policy_tensors
from blip_rl.core.weights import copy_weights, exchanged_weights
from blip_rl.learner.apart import LearnApart
from blip_rl.learner.diagnostics import check_finite
from blip_rl.learner.distributions import distribution_of
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.ppo import ContinualPPO

_CHUNK = 512  # states that pass the network at once when they are labelled
_CHECKED_EVERY = 100  # updates: looking at metrics waits for a GPU


class Losses(NamedTuple):
    """Scalars of one update, detached; ``method_loss`` is None where the method adds nothing."""

    divergence: Tensor
    value_error: Tensor
    method_loss: Tensor | None

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by what a person calls them."""
        added = {} if self.method_loss is None else {"method's loss": self.method_loss}
        return {"divergence from the teacher": self.divergence, "value loss": self.value_error, **added}


@dataclass(frozen=True)
class Labelled:
    """States and what a policy makes of them, one row for each state, on the CPU.

    Attributes:
        observations: Raw, (states, ...).
        policy: Tensors of its distributions: see :func:`blip_rl.core.policies.policy_tensors`.
        values: (states,).
    """

    observations: Tensor
    policy: dict[str, Tensor]
    values: Tensor

    def rows(self, chosen: Tensor, device: torch.device) -> Labelled:
        """Some of the states, on another device."""
        policy = {name: tensor[chosen].to(device) for name, tensor in self.policy.items()}
        return Labelled(self.observations[chosen].to(device), policy, self.values[chosen].to(device))

    def joined(self, other: Labelled) -> Labelled:
        """These states and then the other's."""
        policy = {name: torch.cat([tensor, other.policy[name]]) for name, tensor in self.policy.items()}
        observations = torch.cat([self.observations, other.observations])
        return Labelled(observations, policy, torch.cat([self.values, other.values]))


class Distilled(NamedTuple):
    """How well the student imitates the teacher, over all states that it was distilled on.

    Attributes:
        divergence: Mean of KL(teacher ‖ student), in nats.
        value_error: Mean squared difference of the values.
        agreement: Share of states in which both choose the same greedy action; None for continuous actions.
        seconds: Taken.
    """

    divergence: float
    value_error: float
    agreement: float | None
    seconds: float


class _Teacher:
    """The weights that the task in use was learned with; they change places with the student's while they are used."""

    def __init__(self, policy: ContinualPolicy) -> None:
        self._policy = policy
        self._trunk, self._module = copy_weights(policy.trunk), copy_weights(policy.current)

    def label(self, observations: Tensor) -> Labelled:
        """Let the teacher judge states."""
        with self._in_place():
            return labelled(self._policy, observations)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        trunk, module = self._policy.trunk, self._policy.current
        with exchanged_weights(trunk, self._trunk), exchanged_weights(module, self._module):
            yield


def distil(
    agent: ContinualPPO, method: LearnApart, settings: DistilConfig, on_update: Callable[[], object] = lambda: None
) -> Distilled:
    """Distil the task in use into the shared trunk. The states played count as steps of the agent.

    Draws from torch's global generator alone.

    Args:
        agent: Has learned the task apart; its games are open.
        method: Keeps the shared trunk, and protects it from here on.
        settings: How.
        on_update: Called before every update; what it raises ends the distillation.

    Raises:
        FloatingPointError: losses or weights are not finite.
    """
    began, policy = time.perf_counter(), agent.policy
    teacher = _Teacher(policy)
    states = teacher.label(_played(agent, settings.teacher_states))
    method.restore_shared(policy.trunk)
    policy.reset_current_task()
    policy.new_optimizer(settings.learning_rate)
    student = Student(agent, method, settings, on_update)
    first = settings.updates - (settings.updates // 2 if settings.student_states else 0)
    with agent.protected_by(method, resume=True):
        student.imitate(states, range(first))
        if settings.student_states:
            states = states.joined(teacher.label(_played(agent, settings.student_states)))
            student.imitate(states, range(first, settings.updates))
    return _compared(policy, states, began)


def _played(agent: ContinualPPO, states: int) -> Tensor:
    """Play on with the network as it is, and count the steps: (states, ...) observations."""
    environments = agent.n_envs
    agent.num_timesteps += -(-states // environments) * environments
    return agent.play(states)


@dataclass(frozen=True)
class Student:
    """The agent with its shared trunk and a new module, and how it learns from the teacher."""

    agent: ContinualPPO
    method: LearnApart
    settings: DistilConfig
    on_update: Callable[[], object]

    def imitate(self, states: Labelled, updates: range) -> None:
        """Make some of the updates, with fresh moments and a learning rate that decreases from its start to 0."""
        policy, losses = self.agent.policy, list[Losses]()
        policy.optimizer.state.clear()
        for number, update in enumerate(updates):
            self.on_update()
            self.method.at_progress((update + 1) / self.settings.updates)
            for group in policy.optimizer.param_groups:  # each half has a schedule of its own: no schedule_remaining
                group["lr"] = self.settings.learning_rate * (1 - number / len(updates))
            chosen = torch.randint(len(states.values), (self.settings.minibatch,))
            try:
                losses.append(self._update(states.rows(chosen, policy.device)))
            except ValueError:  # what torch's distributions say, in a method's loss, of logits that are not numbers
                self._check_finite(losses)
                raise
            if len(losses) == _CHECKED_EVERY or number + 1 == len(updates):
                self._check_finite(losses)
                losses = []

    def _update(self, batch: Labelled) -> Losses:
        """One optimizer step."""
        policy = self.agent.policy
        with policy.matmul_precision():
            features = policy.extract_features(batch.observations)
            away = divergence(batch.policy, policy_tensors(distribution_of(policy, features))).mean()
            # Detached: the values may be of any size, and the trunk is there for the policy.
            value_error = F.mse_loss(policy.critic(features.detach()), batch.values)
            extra = self.method.loss(policy.outputs_of)
            policy.optimizer.zero_grad()
            loss = away + value_error
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()
        return Losses(away.detach(), value_error.detach(), None if extra is None else extra.detach())

    def _check_finite(self, losses: list[Losses]) -> None:
        policy = self.agent.policy
        task = policy.task_names[list(policy.tasks).index(policy.current)]
        where = f"distilling {task} at step {self.agent.num_timesteps:,}"
        check_finite(losses, dict(policy.named_parameters()), where, "distil.learning_rate")


@torch.no_grad()
def labelled(policy: ContinualPolicy, observations: Tensor) -> Labelled:
    """What the task in use makes of states, in chunks.

    Args:
        policy: Has a task in use.
        observations: Raw, (states, ...), on any device.
    """
    policies, values = [], []
    for chunk in torch.split(observations, _CHUNK):
        with policy.matmul_precision():
            features = policy.extract_features(chunk.to(policy.device))
            tensors = policy_tensors(distribution_of(policy, features))
            values.append(policy.critic(features).cpu())
        policies.append({name: tensor.cpu() for name, tensor in tensors.items()})
    joined = {name: torch.cat([part[name] for part in policies]) for name in policies[0]}
    return Labelled(observations, joined, torch.cat(values))


def _compared(policy: ContinualPolicy, teacher: Labelled, began: float) -> Distilled:
    student = labelled(policy, teacher.observations)
    agreement = None
    if isinstance(policy.action_space, spaces.Discrete):
        same = teacher.policy["logits"].argmax(1) == student.policy["logits"].argmax(1)
        agreement = same.double().mean().item()
    return Distilled(
        divergence=divergence(teacher.policy, student.policy).mean().item(),
        value_error=F.mse_loss(student.values, teacher.values).item(),
        agreement=agreement,
        seconds=time.perf_counter() - began,
    )
