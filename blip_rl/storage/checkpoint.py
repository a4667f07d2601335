"""Stage checkpoints: tensors in safetensors files, metadata in JSON; no pickle.

A stage folder holds ``policy.safetensors`` (trunk and every task's module), ``method.safetensors`` (the state of
the method) and ``stage.json``; :mod:`blip_rl.storage.atomic` writes it atomically.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method, MethodState
from blip_rl.storage import atomic, validation
from blip_rl.storage.metadata import Count, PolicyMetadata, StageNumber, describe_policy, read_metadata

UNREADABLE = (
    OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError,
    SafetensorError,
)  # fmt: skip
"""Exceptions that Python, torch and Gymnasium raise for a damaged or unexpected file."""


class _Metadata(PolicyMetadata):
    """``stage.json``, without the description of the method's state, which is for people."""

    format: Literal[1]
    stage: StageNumber
    env_steps: Count
    method: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A loaded checkpoint: the policy with the heads of all tasks learned so far, and the state of the method."""

    number: int
    env_steps: int
    policy: ContinualPolicy
    method_state: MethodState


def save_stage(
    path: Path,
    stage: int,
    env_steps: int,
    policy: ContinualPolicy,
    method: Method,
    check: atomic.Check = atomic.unlocked,
) -> None:
    """Write the checkpoint of a stage to the new folder ``path`` atomically.

    Args:
        path: The new folder.
        stage: Number of the stage, counted from 1.
        env_steps: Training steps of the run.
        policy: The policy to save.
        method: Its state is saved.
        check: Raises if another process has taken the run over; nothing is written then.
    """
    state = method.state()
    metadata = {
        "format": 1,
        "stage": stage,
        "env_steps": env_steps,
        **describe_policy(policy),
        "method": state.values,
        "description": method.describe(state),
    }
    with atomic.new_folder_with_digests(path, check) as folder:
        save_tensors(on_cpu(policy.task_state()), folder / "policy.safetensors")
        save_tensors(on_cpu(state.tensors), folder / "method.safetensors")
        (folder / "stage.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def load_stage(path: Path, config: RunConfig, device: str = "cpu") -> Stage:
    """Load the checkpoint of a stage.

    Headers are validated against the recipe before any tensor is allocated.

    Raises:
        UserError: A file is missing, damaged, needs more memory than available, or does not fit the recipe.
    """
    try:
        metadata = read_metadata(path / "stage.json", _Metadata)
        observations, tasks = metadata.observation_space.space(), metadata.task_spaces(config)
        _check_files(path, observations, tasks, config)
        atomic.check_folder(path)  # after the size checks, since it reads every byte
        policy = _build_policy(observations, tasks, config)
        policy.load_task_state(load_tensors(path / "policy.safetensors"))
        memory = MethodState(load_tensors(path / "method.safetensors"), metadata.method)
        return Stage(metadata.stage, metadata.env_steps, policy.to(device), memory)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"checkpoint '{path}' cannot be read: {error}") from error


def _check_files(path: Path, observations: spaces.Space[Any], tasks: validation.Tasks, config: RunConfig) -> None:
    """Raise if the files do not fit the recipe's network and method, or need more memory than available."""
    weights, memory = validation.headers(path, "policy", "method")
    outline = validation.meta_policy(observations, tasks, config)
    validation.check_fits_memory(
        f"checkpoint '{path}'", outline, {"the weights": weights, "the method's state": memory}
    )
    validation.check_policy(weights, outline)
    validation.check_method(memory, outline, config)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whose header has been validated.

    Raises:
        UserError: A tensor holds NaN or infinity, which no run saves.
    """
    tensors: dict[str, Tensor] = load_file(path)
    validation.check_finite_tensors(f"'{path}'", tensors)
    return tensors


def _build_policy(observations: spaces.Space[Any], tasks: validation.Tasks, config: RunConfig) -> ContinualPolicy:
    policy = ContinualPolicy(
        observations,
        tasks[0][1],
        lambda _: 0.0,
        trunk=config.agent.trunk,
        normalization=config,
        precision=config.compute.precision,
    )
    for name, action_space in tasks:
        policy.add_task(name, action_space)
    policy.use_task(policy.task_names[-1])
    return policy


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The file cannot be written. safetensors raises its own error instead, which does not name the file.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"'{path}' cannot be written: {error}") from error


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors detached, contiguous and on the CPU, as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def trunk_bytes(trunk: nn.Module) -> bytes:
    """Return the trunk's weights as bytes, to detect whether a consolidation changed any."""
    return b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in trunk.parameters())
