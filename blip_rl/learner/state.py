"""Save and restore the state of a learning agent between two updates, bit-exactly.

Not included: the games, whose state cannot be saved (:mod:`blip_rl.tasks.recorded` replays them), the rollout, which is
empty between updates, and the method, which saves its own state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from blip_rl.learner.ppo import ContinualPPO

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's state of each parameter


@dataclass(frozen=True)
class Snapshot:
    """An agent's state: tensors by name, on the CPU, and JSON-serialisable values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def take(agent: ContinualPPO) -> Snapshot:
    """Copy the agent's state: weights, optimizer, counters and random generators.

    All three generators are part of it, because resuming must draw the same minibatches and actions.
    """
    numpy_state = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002  stable-baselines3 uses it
    tensors = {
        **{f"policy.{name}": tensor for name, tensor in agent.policy.task_state().items()},
        **_optimizer_tensors(agent.policy.optimizer),
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(numpy_state[1].astype(np.int64)),
    }
    if agent.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(agent.device)
    values = {
        "steps": agent.num_timesteps,
        "task_began_at": agent.task_began_at,
        "updates": agent._n_updates,
        "episodes": episodes(agent),
        "random_numpy": [numpy_state[0], *numpy_state[2:]],
    }
    # Cloned, because cpu() returns a tensor on the CPU itself, and training changes weights and moments in place.
    return Snapshot({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, values)


def restore(agent: ContinualPPO, snapshot: Snapshot) -> None:
    """Restore a snapshot into an agent of the same recipe, with the same tasks and task in use.

    Raises:
        ValueError: a tensor is missing or has another shape: the snapshot belongs to another agent.
    """
    tensors, values = snapshot.tensors, snapshot.values
    agent.policy.load_task_state({name[7:]: t for name, t in tensors.items() if name.startswith("policy.")})
    _fill_optimizer(agent.policy.optimizer, tensors)
    agent.discard_captures()  # the optimizer's state is in new tensors, at other addresses
    agent.num_timesteps, agent._n_updates = int(values["steps"]), int(values["updates"])
    agent.task_began_at = int(values["task_began_at"])
    restore_episodes(agent, values["episodes"])
    restore_random(agent, snapshot)


def episodes(agent: ContinualPPO) -> list[Any]:
    """List return and length of the newest episodes of the task in use, from which the logged averages are computed."""
    return [[info["r"], info["l"]] for info in agent.ep_info_buffer or ()]


def restore_episodes(agent: ContinualPPO, newest: Sequence[Any]) -> None:
    """Restore the result of :func:`episodes`."""
    infos = [{"r": float(score), "l": int(length)} for score, length in newest]
    agent.ep_info_buffer = deque(infos, maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)


def restore_random(agent: ContinualPPO, snapshot: Snapshot) -> None:
    """Restore the random generators alone, after something has drawn from them."""
    torch.set_rng_state(snapshot.tensors["random.torch"])
    kind, *rest = snapshot.values["random_numpy"]
    keys = snapshot.tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, *rest))  # noqa: NPY002
    # A run that was saved on a CPU and resumes on a GPU has none: the GPU's generator keeps its initial seed.
    if agent.device.type == "cuda" and "random.cuda" in snapshot.tensors:
        torch.cuda.set_rng_state(snapshot.tensors["random.cuda"], agent.device)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer.{index}.{moment}": optimizer.state[parameter][moment]
        for index, parameter in enumerate(_parameters(optimizer))
        for moment in _MOMENTS
        if optimizer.state[parameter]
    }


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    optimizer.state.clear()
    for index, parameter in enumerate(_parameters(optimizer)):
        found = {moment: tensors.get(f"optimizer.{index}.{moment}") for moment in _MOMENTS}
        if found["step"] is None:
            continue  # the parameter never had a gradient
        optimizer.state[parameter] = {
            moment: _like(parameter, f"optimizer.{index}.{moment}", tensor) for moment, tensor in found.items()
        }


def _like(parameter: Tensor, name: str, saved: Tensor | None) -> Tensor:
    """Copy a saved tensor to the parameter's device and memory layout; scalars keep theirs."""
    if saved is None or (saved.dim() and saved.shape != parameter.shape):
        shape = "missing" if saved is None else str(tuple(saved.shape))
        raise ValueError(f"{name!r} is {shape}, expected {tuple(parameter.shape)}: another agent's snapshot")
    if saved.dim() == 0:
        return saved.to(parameter.device, copy=True)  # Adam increments the step in place: do not alias the snapshot
    return torch.empty_like(parameter, requires_grad=False).copy_(saved)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
