"""Validation of checkpoint files against the recipe's network and method, before any tensor is allocated.

A checkpoint may come from an untrusted source. The network is built on torch's meta device, without memory for its
weights, and compared with the names, dtypes and shapes in the headers of the safetensors files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.learner.separate_trunk import build_method
from blip_rl.methods.base import Network
from blip_rl.untrusted.machine import check_memory
from blip_rl.untrusted.tensors import TensorSpec, read_header

_KINDS = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _KINDS.items()}
_MOMENTS = {"exp_avg", "exp_avg_sq"}
_COPIES = 2  # of the weights while loading: in the network and as read from the file
_FIX = "make the layers of the recipe smaller, or use a machine with more memory"

Tasks = Sequence[tuple[str, spaces.Space[Any]]]


def meta_policy(observations: spaces.Space[Any], tasks: Tasks, config: RunConfig) -> ContinualPolicy:
    """Build a policy for these tasks on the meta device, with the last task in use.

    Raises:
        UserError: The network cannot be built.
    """
    with torch.device("meta"):
        # Fused Adam does not support meta tensors.
        policy = ContinualPolicy(
            observations,
            tasks[0][1],
            lambda _: 0.0,
            trunk=config.agent.trunk,
            normalization=config,
            optimizer_kwargs={"fused": False},
        )
        for name, action_space in tasks:
            policy.add_task(name, action_space)
        policy.use_task(tasks[-1][0])
    return policy


def check_policy(found: Mapping[str, TensorSpec], policy: ContinualPolicy, prefix: str = "") -> None:
    """Compare the specs of saved weights with those of a network; tensors without the prefix are ignored.

    Weights may be saved as float16 (:func:`~blip_rl.storage.checkpoint.save_player`); loading converts them.

    Raises:
        ValueError: A tensor is missing, unexpected, or has another dtype or shape.
    """
    expected = {f"{prefix}{name}": _spec(tensor) for name, tensor in policy.task_state().items()}
    mine = {name: spec for name, spec in found.items() if name.startswith(prefix)}
    for name in {**expected, **mine}:
        if not _fits(mine.get(name), expected.get(name)):
            raise ValueError(
                f"size mismatch: {name!r} is {_shown(mine.get(name))}, expected {_shown(expected.get(name))}: "
                "another network's weights"
            )


def check_optimizer(
    found: Mapping[str, TensorSpec], policy: ContinualPolicy, learned: Sequence[str] | None = None
) -> None:
    """Compare ``optimizer.<number>.<moment>`` with the parameters being trained.

    Args:
        found: Tensor specs by name.
        policy: The network; its optimizer is replaced.
        learned: Names of the tasks being trained; None means the task in use.

    Raises:
        ValueError: A tensor does not fit.
    """
    policy.new_optimizer(1.0, learned)
    parameters = [parameter for group in policy.optimizer.param_groups for parameter in group["params"]]
    for name, spec in found.items():
        kind, _, rest = name.partition(".")
        number, _, moment = rest.partition(".")
        if kind != "optimizer":
            continue
        if not number.isdecimal() or int(number) >= len(parameters) or moment not in {"step", *_MOMENTS}:
            raise ValueError(f"{name!r} is no state of this network's optimizer")
        expected = TensorSpec("F32", ()) if moment == "step" else _spec(parameters[int(number)])
        if spec != expected:
            raise ValueError(f"size mismatch: {name!r} is {spec}, expected {expected}: another agent's snapshot")


def check_method(found: Mapping[str, TensorSpec], policy: ContinualPolicy, config: RunConfig) -> None:
    """Compare the tensors that a method has saved with those that it may save for this network.

    Raises:
        ValueError: one is not among them, or is of another dtype or shape.
    """
    method = build_method(config.agent)
    outputs = tuple(policy.module_of(task).actor.out_features for task in range(len(policy.task_names)))
    layouts = method.state_tensors(Network(policy.protected, policy.observation_space, outputs))
    for name, spec in found.items():
        expected = layouts.get(name)
        if expected is None:
            raise ValueError(f"{name!r} is {spec}: method {config.agent.method['name']!r} saves no such tensor")
        if not expected.allows(_DTYPES.get(spec.dtype), spec.shape):
            most = "at most " if expected.bounded else ""
            raise ValueError(
                f"{name!r} is {spec}, expected {most}{_KINDS[expected.dtype]} {expected.shape}: another network's"
            )


def check_actions(known: Tasks, tasks: Tasks) -> None:
    """Compare the action spaces of an agent's heads with those of its games.

    Args:
        known: Names and action spaces of the agent's tasks.
        tasks: Names and action spaces of the games.

    Raises:
        UserError: The action spaces of a task differ.
    """
    games = dict(tasks)
    for name, actions in known:
        if name in games and games[name] != actions:
            raise UserError(
                f"the agent's head for {name!r} chooses among {actions}, but the game takes {games[name]}: "
                "another run's checkpoint"
            )


def check_agent_observations(policy: ContinualPolicy, task: str, observations: spaces.Space[Any]) -> None:
    """Compare the observation space of an agent with that of a game.

    Raises:
        UserError: Shape or dtype differ.
    """
    mine = policy.observation_space
    if observations.shape != mine.shape or observations.dtype != mine.dtype:
        raise UserError(
            f"the agent observes {mine.dtype} {mine.shape}, but {task!r} shows {observations.dtype} "
            f"{observations.shape}: another run's checkpoint"
        )


def check_fits_memory(what: str, policy: ContinualPolicy, files: Mapping[str, Mapping[str, TensorSpec]]) -> None:
    """Check that a network and the tensors read from files fit into memory together.

    Args:
        what: Name of the checkpoint, for the message.
        policy: From :func:`meta_policy`.
        files: Content of each file, for the message → tensor specs by name.

    Raises:
        TooLittleMemoryError: They do not fit; the message gives the memory needed.
    """
    parts: dict[str, float] = {"the network": weight_bytes(policy) * _COPIES}
    parts |= {name: sum(spec.size for spec in header.values()) for name, header in files.items()}
    check_memory(what, parts, _FIX)


def weight_bytes(policy: ContinualPolicy) -> int:
    """Return the bytes of all weights, trunk and heads."""
    return sum(tensor.nbytes for tensor in policy.task_state().values())


def headers(folder: Path, *names: str) -> list[dict[str, TensorSpec]]:
    """Read the header of ``<name>.safetensors`` for each name.

    Raises:
        UserError: A file is missing or not a safetensors file.
    """
    return [read_header(folder / f"{name}.safetensors") for name in names]


def check_finite_tensors(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors hold neither NaN nor infinity, which no run saves.

    Raises:
        UserError: One does; the message names the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{what} holds numbers that are not finite, in {name!r}: damaged or changed")


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(_KINDS[tensor.dtype], tuple(tensor.shape))


def _fits(found: TensorSpec | None, expected: TensorSpec | None) -> bool:
    """Return whether a saved tensor is the expected one, or one of float32 that was saved as float16."""
    if found is None or expected is None or found.shape != expected.shape:
        return False
    return found.dtype == expected.dtype or (found.dtype, expected.dtype) == ("F16", "F32")


def _shown(spec: TensorSpec | None) -> str:
    return "not there" if spec is None else str(spec)
