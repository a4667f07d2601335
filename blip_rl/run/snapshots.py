"""Snapshots of a run in the middle of a task: what it takes to go on as if nothing had happened.

A snapshot is a folder ``checkpoints/step-…`` with the agent, the method, the actions that lead the games to where they
are, and how long each file of evidence was. The two newest are kept: if one is damaged there is one before it.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, from_numpy

from blip_rl.errors import RunError
from blip_rl.learner import snapshot
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.base import Method, MethodState
from blip_rl.run import durable
from blip_rl.run.checkpoint import describe_tasks, known_tasks, on_cpu
from blip_rl.run.folder import RunFolder

_FORMAT = 1
_KEPT = 2

Phase = Literal["learning", "learned"]


@dataclass(frozen=True)
class RunSnapshot:
    """A moment of a run.

    Attributes:
        stage: Number of the task in use.
        phase: Whether it is still being learned, or learned and not consolidated yet.
        agent: Weights, optimizer, counters and random generators.
        method: What the method remembers.
        known_tasks: Names and action spaces of the tasks that have a head.
        games_seed: What the games were last started with.
        actions: What was played in them since, (steps, environments, ...).
        watched: Observations that plasticity is measured on; None before there are any.
        sizes: Bytes of each file of evidence by name.
        recipe: What ``config.toml`` held.
    """

    stage: int
    phase: Phase
    agent: snapshot.Snapshot
    method: MethodState
    known_tasks: list[tuple[str, Any]]
    games_seed: int
    actions: np.ndarray
    watched: Tensor | None
    sizes: dict[str, int]
    recipe: str

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        return int(self.agent.values["steps"])


def save(
    folder: RunFolder,
    agent: ContinualPPO,
    method: Method,
    *,
    stage: int,
    phase: Phase,
    games_seed: int,
    actions: np.ndarray,
    watched: Tensor | None,
) -> None:
    """Write a snapshot and let go of all but the newest two.

    Raises:
        OSError: the disk is full or may not be written; earlier snapshots are as they were.
    """
    taken, memory = snapshot.take(agent), method.state()
    folder.flush_evidence()
    facts = {
        "format": _FORMAT,
        "stage": stage,
        "phase": phase,
        "games_seed": games_seed,
        "sizes": folder.evidence_sizes(),
        "recipe": folder.recipe(),
        "agent": taken.values,
        "method": memory.values,
        **describe_tasks(agent.policy),
    }
    games = {"actions": from_numpy(actions)} | ({} if watched is None else {"watched": watched})
    with durable.writing(folder.snapshot_path(agent.num_timesteps)) as beside:
        durable.save_tensors(on_cpu(taken.tensors), beside / "agent.safetensors")
        durable.save_tensors(on_cpu(memory.tensors), beside / "method.safetensors")
        durable.save_tensors(on_cpu(games), beside / "games.safetensors")
        (beside / "snapshot.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for old in folder.snapshots()[:-_KEPT]:
        durable.remove(old)


def newest(folder: RunFolder) -> RunSnapshot | None:
    """The newest snapshot that can be read; None where there has been none yet. A damaged one is warned of.

    Raises:
        RunError: there are some, and none can be read.
    """
    found = folder.snapshots()
    for path in reversed(found):
        try:
            return load(path)
        except durable.DamagedError as error:
            warnings.warn(f"{error}; going on from the snapshot before it", stacklevel=2)
    if found:
        raise RunError(f"none of the {len(found)} snapshots in '{folder.path}' can be read: start a new run")
    return None


def load(path: Path) -> RunSnapshot:
    """Read one snapshot.

    Raises:
        DamagedError: a file of it is missing, cut off or changed.
    """
    durable.check(path)
    try:
        facts = json.loads((path / "snapshot.json").read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']}: this version reads format {_FORMAT}")
        games = load_file(path / "games.safetensors")
        return RunSnapshot(
            stage=int(facts["stage"]),
            phase=facts["phase"],
            agent=snapshot.Snapshot(load_file(path / "agent.safetensors"), facts["agent"]),
            method=MethodState(load_file(path / "method.safetensors"), facts["method"]),
            known_tasks=known_tasks(facts),
            games_seed=int(facts["games_seed"]),
            actions=games["actions"].numpy(),
            watched=games.get("watched"),
            sizes={str(name): int(size) for name, size in facts["sizes"].items()},
            recipe=str(facts["recipe"]),
        )
    except (OSError, LookupError, AttributeError, TypeError, ValueError, SafetensorError) as error:
        raise durable.DamagedError(f"'{path}' cannot be read: {error!r}") from error
