"""Stage checkpoints: tensors in safetensors files, metadata in JSON; no pickle.

A stage folder holds ``policy.safetensors`` (trunk and every task's module), ``method.safetensors`` (the state of
the method) and ``stage.json``; :mod:`blip_rl.storage.atomic` writes it atomically. A *player* is a checkpoint that is
published to be played: weights may be float16, and the method's state is there only if playing needs it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    method: dict[str, Any] | None


@dataclass(frozen=True)
class Stage:
    """A loaded checkpoint.

    Attributes:
        number: Number of the stage, counted from 1.
        env_steps: Training steps of the run.
        policy: With the heads of all tasks learned so far.
        method_state: State of the method; None in a player that is played without it.
    """

    number: int
    env_steps: int
    policy: ContinualPolicy
    method_state: MethodState | None


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
    saved = Stage(stage, env_steps, policy, state)
    _write(path, saved, policy.task_state(), method.describe(state), check)


def save_player(path: Path, stage: Stage, method: Method, half: Collection[str], about: Sequence[str]) -> None:
    """Write a checkpoint that is only played to the new folder ``path``.

    Args:
        path: The new folder.
        stage: The stage; its policy has the weights to save.
        method: With its state, which is saved if playing needs it.
        half: Names of the policy's tensors that are saved as float16.
        about: Lines for people.
    """
    weights = {name: tensor.half() if name in half else tensor for name, tensor in stage.policy.task_state().items()}
    state = method.state() if method.plays_with_state else None
    described = [] if state is None else method.describe(state)
    player = Stage(stage.number, stage.env_steps, stage.policy, state)
    _write(path, player, weights, [*described, *about], atomic.unlocked)


def _write(path: Path, stage: Stage, weights: dict[str, Tensor], description: list[str], check: atomic.Check) -> None:
    state = stage.method_state
    metadata = {
        "format": 1,
        "stage": stage.number,
        "env_steps": stage.env_steps,
        **describe_policy(stage.policy),
        "method": None if state is None else state.values,
        "description": description,
    }
    with atomic.new_folder_with_digests(path, check) as folder:
        save_tensors(on_cpu(weights), folder / "policy.safetensors")
        save_tensors({} if state is None else on_cpu(state.tensors), folder / "method.safetensors")
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
        tensors = load_tensors(path / "method.safetensors")
        memory = None if metadata.method is None else MethodState(tensors, metadata.method)
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
    tensors = read_tensors(path)
    validation.check_finite_tensors(f"'{path}'", tensors)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, into memory that is aligned as torch's own.

    safetensors gives views of the file's bytes, and the kernels of a matrix product depend on where its operands begin:
    a resumed run would differ from an uninterrupted one by rounding.
    """
    loaded = load_file(path)
    return {name: loaded.pop(name).clone() for name in list(loaded)}


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
