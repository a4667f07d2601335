"""Policy distillation: transfer a task that was learned apart into the shared trunk.

The teacher is the trunk and task module as learned. The student is the shared trunk with a new task module, under the
method's protection. With π_T, V_T of the teacher and π, V of the student, each update minimises over a minibatch

    mean over s of  KL(π_T(·|s) ‖ π(·|s)) + (V(s) − V_T(s))²

where the second term trains the critic alone. The first half of the updates uses states of the task's last rollouts and
states visited by the teacher, the second half also states visited by the student, as in DAgger (Ross et al. 2011, arXiv
1011.0686), so that the student learns to recover from its own errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from blip_rl.agent_config import DistilConfig
from blip_rl.core.policy_tensors import divergence, policy_tensors
from blip_rl.core.weights import copy_weights, exchanged_weights
from blip_rl.learner.diagnostics import check_finite
from blip_rl.learner.distributions import distribution_of
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.rollout_states import RolloutStates
from blip_rl.learner.separate_trunk import LearnApart

_CHUNK = 512  # states per forward pass when labelling
_CHECKED_EVERY = 100  # updates: reading metrics synchronises with the GPU


class Losses(NamedTuple):
    """Detached scalars of one update; ``method_loss`` is None if the method adds no loss."""

    divergence: Tensor
    value_error: Tensor
    method_loss: Tensor | None

    def by_name(self) -> dict[str, Tensor]:
        """Scalars by display name."""
        added = {} if self.method_loss is None else {"method's loss": self.method_loss}
        return {"divergence from the teacher": self.divergence, "value loss": self.value_error, **added}


@dataclass(frozen=True)
class Labelled:
    """States with a policy's action distributions and values, one row per state, all on one device.

    Attributes:
        observations: Raw, (states, ...).
        policy: Tensors of its distributions: see :func:`blip_rl.core.policy_tensors.policy_tensors`.
        values: (states,).
    """

    observations: Tensor
    policy: dict[str, Tensor]
    values: Tensor

    def rows(self, chosen: Tensor) -> Labelled:
        """Select rows by their numbers."""
        policy = {name: tensor[chosen] for name, tensor in self.policy.items()}
        return Labelled(self.observations[chosen], policy, self.values[chosen])

    def to(self, device: torch.device) -> Labelled:
        """Copy all rows to a device."""
        policy = {name: tensor.to(device) for name, tensor in self.policy.items()}
        return Labelled(self.observations.to(device), policy, self.values.to(device))

    @property
    def nbytes(self) -> int:
        """Memory of all rows."""
        return sum(tensor.nbytes for tensor in (self.observations, self.values, *self.policy.values()))

    def followed_by(self, other: Labelled, observations: Tensor) -> Labelled:
        """Join the outputs for two sets of states; ``observations`` are those of both, in this order."""
        policy = {name: torch.cat([tensor, other.policy[name]]) for name, tensor in self.policy.items()}
        return Labelled(observations, policy, torch.cat([self.values, other.values]))


class Distilled(NamedTuple):
    """How well the student imitates the teacher, over all states that it was distilled on.

    Attributes:
        divergence: Mean of KL(teacher ‖ student), in nats.
        value_error: Mean squared difference of the values.
        agreement: Share of states in which both choose the same greedy action; None for continuous actions.
        seconds: Wall-clock time of the distillation.
    """

    divergence: float
    value_error: float
    agreement: float | None
    seconds: float


class _Teacher:
    """A copy of the weights that the task in use was learned with; swapped in while the teacher runs.

    A copy of the weights, not of the policy: there is one set of modules, so that preprocessing, precision and a
    compiled trunk are the same for teacher and student, and no second network is held in memory.
    """

    def __init__(self, policy: ContinualPolicy) -> None:
        self._policy = policy
        self._trunk, self._module = copy_weights(policy.trunk), copy_weights(policy.current)

    def label(self, observations: Tensor) -> Labelled:
        """Compute the teacher's outputs for states."""
        with self._in_place():
            return labelled(self._policy, observations)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        trunk, module = self._policy.trunk, self._policy.current
        with exchanged_weights(trunk, self._trunk), exchanged_weights(module, self._module):
            yield


def distil(
    agent: ContinualPPO,
    method: LearnApart,
    settings: DistilConfig,
    on_update: Callable[[], object] = lambda: None,
    *,
    rollouts: RolloutStates | None = None,
) -> Distilled:
    """Distil the task in use into the shared trunk. Steps played for it count as steps of the agent.

    Random draws come from torch's global generator alone, so that a run can be resumed bit-exactly.

    Args:
        agent: Agent that has learned the task apart, with open environments.
        method: Holds the shared trunk and protects it during distillation.
        settings: Number of states and updates, minibatch size and learning rate.
        on_update: Called before every update; its exceptions propagate.
        rollouts: Observations of the task's last rollouts, to distil on with those of teacher and student, which are
            added to them.

    Raises:
        FloatingPointError: losses or weights are not finite.
    """
    began, policy = time.perf_counter(), agent.policy
    teacher = _Teacher(policy)
    # Order matters for exact resume: playing, resetting the module and choosing minibatches all draw from torch's
    # generator. The teacher plays before restore_shared overwrites its weights in the trunk.
    kept = RolloutStates() if rollouts is None else rollouts
    expected = len(kept) + settings.steps
    states = teacher.label(kept.add(_play(agent, settings.teacher_states), expected))
    method.restore_shared(policy.trunk)
    policy.reset_current_task()  # the teacher's head fits the features of the teacher's trunk, not the shared ones
    policy.new_optimizer(settings.learning_rate)
    student = Student(agent, method, settings, on_update)
    # Without student states all updates use the teacher's; else the second half adds the student's own.
    first = settings.updates - (settings.updates // 2 if settings.student_states else 0)
    # resume=True: the wrapped method has started this task before its trunk was set aside.
    with agent.protected_by(method, resume=True):
        student.imitate(states, range(first))
        if settings.student_states:
            labelled_before = len(kept)
            observations = kept.add(_play(agent, settings.student_states), expected)
            states = states.followed_by(teacher.label(observations[labelled_before:]), observations)
            student.imitate(states, range(first, settings.updates))
    return _compare(policy, states, began)


def _play(agent: ContinualPPO, states: int) -> Tensor:
    """Collect observations with the current network and count the steps; (states, ...)."""
    environments = agent.n_envs
    agent.num_timesteps += -(-states // environments) * environments
    return agent.play(states)


@dataclass(frozen=True)
class Student:
    """The agent with the shared trunk and a new task module, trained to imitate the teacher."""

    agent: ContinualPPO
    method: LearnApart
    settings: DistilConfig
    on_update: Callable[[], object]

    def imitate(self, states: Labelled, updates: range) -> None:
        """Run a range of updates, with new Adam moments and a learning rate that decays linearly to 0."""
        policy, losses = self.agent.policy, list[Losses]()
        states = _nearest(states, policy.device)
        # The second half has other states: moments of the first would carry its gradients into them.
        policy.optimizer.state.clear()
        for number, update in enumerate(updates):
            self.on_update()
            self.method.at_progress((update + 1) / self.settings.updates)
            for group in policy.optimizer.param_groups:  # own schedule per half: no schedule_remaining
                group["lr"] = self.settings.learning_rate * (1 - number / len(updates))
            # Drawn on the CPU, so that a seed chooses the same states on every device.
            chosen = torch.randint(len(states.values), (self.settings.minibatch,)).to(states.values.device)
            try:
                losses.append(self._update(states.rows(chosen).to(policy.device)))
            except ValueError:  # torch's distributions raise it for non-finite logits inside a method's loss
                self._check_finite(losses)
                raise
            if len(losses) == _CHECKED_EVERY or number + 1 == len(updates):
                self._check_finite(losses)
                losses = []

    def _update(self, batch: Labelled) -> Losses:
        """Take one optimizer step."""
        policy = self.agent.policy
        with policy.matmul_precision():
            features = policy.extract_features(batch.observations)
            kl = divergence(batch.policy, policy_tensors(distribution_of(policy, features))).mean()
            # Detached: value errors may be of any scale and would dominate the gradient of the trunk. So
            # the policy alone trains the trunk, and the critic fits the features that result.
            value_error = F.mse_loss(policy.critic(features.detach()), batch.values)
            extra = self.method.loss(policy.outputs_of)
            policy.optimizer.zero_grad()
            loss = kl + value_error
            (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()
        return Losses(kl.detach(), value_error.detach(), None if extra is None else extra.detach())

    def _check_finite(self, losses: list[Losses]) -> None:
        policy = self.agent.policy
        where = f"distilling {policy.current_name} at step {self.agent.num_timesteps:,}"
        check_finite(losses, dict(policy.named_parameters()), where, "distil.learning_rate")


def _nearest(states: Labelled, device: torch.device) -> Labelled:
    """Copy the states to a GPU if they take at most half of its free memory; else minibatches are copied one by one."""
    # With minibatches that were selected and copied on the CPU an update took 22 ms on an H200 (docs/gpu.md).
    fits = device.type == "cuda" and states.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
    return states.to(device) if fits else states


@torch.no_grad()
def labelled(policy: ContinualPolicy, observations: Tensor) -> Labelled:
    """Compute action distributions and values of the task in use for states, in chunks.

    Args:
        policy: A policy with a task in use.
        observations: Raw, (states, ...), on any device.
    """
    policies, values = [], []
    for chunk in torch.split(observations, _CHUNK):
        with policy.matmul_precision():
            features = policy.extract_features(chunk.to(policy.device))
            tensors = policy_tensors(distribution_of(policy, features))
            values.append(policy.critic(features).cpu())
        # On the CPU, as the observations: the states of a distillation need not fit into the GPU's memory.
        policies.append({name: tensor.cpu() for name, tensor in tensors.items()})
    joined = {name: torch.cat([part[name] for part in policies]) for name in policies[0]}
    return Labelled(observations, joined, torch.cat(values))


def imitation(teacher: Labelled, student: Labelled) -> tuple[float, float | None]:
    """Compare two policies on the same states.

    Returns:
        Mean of KL(teacher ‖ student) in nats, and the share of states in which both choose the same greedy action; None
        for continuous actions.
    """
    agreement = None
    if "logits" in teacher.policy:
        # Greedy actions, the ones that evaluation may play; a KL divergence alone is hard to judge.
        same = teacher.policy["logits"].argmax(1) == student.policy["logits"].argmax(1)
        agreement = same.double().mean().item()
    return divergence(teacher.policy, student.policy).mean().item(), agreement


def _compare(policy: ContinualPolicy, teacher: Labelled, began: float) -> Distilled:
    student = labelled(policy, teacher.observations)
    mean_divergence, agreement = imitation(teacher, student)
    return Distilled(
        divergence=mean_divergence,
        value_error=F.mse_loss(student.values, teacher.values).item(),
        agreement=agreement,
        seconds=time.perf_counter() - began,
    )
