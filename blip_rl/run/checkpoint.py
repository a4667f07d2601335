"""Stage checkpoints: tensors in safetensors, the rest in JSON, nothing pickled.

A stage folder holds ``policy.safetensors`` (trunk and every task's module), ``method.safetensors`` (what the method
remembers) and ``stage.json``; :mod:`blip_rl.run.durable` sees to it that a stage exists whole or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method, MethodState
from blip_rl.run import durable

_FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """A loaded checkpoint: an agent that plays every task learned so far, and the method's memory."""

    number: int
    env_steps: int
    policy: ContinualPolicy
    method_state: MethodState


def save_stage(path: Path, stage: int, env_steps: int, policy: ContinualPolicy, method: Method) -> None:
    """Write the checkpoint of a stage to the folder ``path``, all or nothing."""
    state = method.state()
    facts = {
        "format": _FORMAT,
        "stage": stage,
        "env_steps": env_steps,
        **describe_tasks(policy),
        "method": state.values,
    }
    with durable.writing(path) as folder:
        durable.save_tensors(on_cpu(policy.task_state()), folder / "policy.safetensors")
        durable.save_tensors(on_cpu(state.tensors), folder / "method.safetensors")
        (folder / "stage.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def describe_tasks(policy: ContinualPolicy) -> dict[str, Any]:
    """Spaces and names, in JSON's terms: what a policy is built from again."""
    return {
        "observation_space": _describe_space(policy.observation_space),
        "tasks": [
            {"name": name, "action_space": _describe_space(cast(Any, module).action_space)}
            for name, module in zip(policy.task_names, policy.tasks, strict=True)
        ],
    }


def known_tasks(facts: dict[str, Any]) -> list[tuple[str, spaces.Space[Any]]]:
    """Names and action spaces of what :func:`describe_tasks` returned."""
    return [(str(task["name"]), _space(task["action_space"])) for task in facts["tasks"]]


def load_stage(path: Path, config: RunConfig, device: str = "cpu") -> Stage:
    """Rebuild the agent of a stage.

    Raises:
        UserError: a file is missing, damaged, or does not fit the run's recipe.
    """
    try:
        durable.check(path, required=False)
        facts = json.loads((path / "stage.json").read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise UserError(f"'{path}' has format {facts['format']}: this version reads format {_FORMAT}")
        policy = _build_policy(facts, config)
        policy.load_task_state(load_file(path / "policy.safetensors"))
        memory = MethodState(load_file(path / "method.safetensors"), facts["method"])
        return Stage(int(facts["stage"]), int(facts["env_steps"]), policy.to(device), memory)
    except UserError:
        raise
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"checkpoint '{path}' cannot be read: {error}") from error


def _build_policy(facts: dict[str, Any], config: RunConfig) -> ContinualPolicy:
    tasks = known_tasks(facts)
    policy = ContinualPolicy(_space(facts["observation_space"]), tasks[0][1], lambda _: 0.0, trunk=config.agent.trunk)
    for name, action_space in tasks:
        policy.add_task(name, action_space)
    policy.use_task(policy.task_names[-1])
    return policy


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    box = cast(spaces.Box, space)
    low, high = (np.unique(side) for side in (box.low, box.high))
    return {
        "kind": "box",
        "shape": list(box.shape),
        "dtype": str(box.dtype),
        # Bounds that are the same everywhere, as an image's are, take one number. JSON has no infinity: text does.
        "low": [str(value) for value in (low if len(low) == 1 else box.low.ravel())],
        "high": [str(value) for value in (high if len(high) == 1 else box.high.ravel())],
    }


def _space(described: dict[str, Any]) -> spaces.Space[Any]:
    if described["kind"] == "discrete":
        return spaces.Discrete(int(described["n"]), start=int(described["start"]))
    dtype, shape = np.dtype(described["dtype"]), tuple(int(side) for side in described["shape"])
    if dtype.kind not in "fiu" or len(shape) > 3 or np.prod(shape, dtype=np.float64) > 1e7:
        raise ValueError(f"a space of {dtype} {shape}: expected numbers, at most 3 dimensions and 10 million entries")
    low, high = (_bounds(described[side], dtype, shape) for side in ("low", "high"))
    return spaces.Box(low, high, shape, dtype.type)


def _bounds(values: list[str], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.array([float(value) for value in values]).astype(dtype)
    return np.broadcast_to(numbers[0], shape).copy() if len(numbers) == 1 else numbers.reshape(shape)


def trunk_bytes(trunk: nn.Module) -> bytes:
    """The trunk's weights as bytes, to tell whether a consolidation changed any."""
    return b"".join(p.detach().cpu().contiguous().numpy().tobytes() for p in trunk.parameters())
