"""Snapshots: the complete state of a run in the middle of a task, for an exact resume.

A snapshot is a folder ``checkpoints/step-…`` with the agent, the method, the action logs that replay the environments
to their state, and the size and digest of each table and event file. The newest two are kept, in case one is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from gymnasium import spaces
from pydantic import BaseModel, Field
from torch import Tensor, from_numpy

from blip_rl.config import RunConfig
from blip_rl.errors import TooLittleMemoryError, UserError, is_unread
from blip_rl.learner import state
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import learns_together
from blip_rl.methods.base import Method, MethodState
from blip_rl.recipes import parse_run_config
from blip_rl.storage import atomic, integrity, validation
from blip_rl.storage.action_log import ActionLog, DescribedGames, Episodes, action_logs
from blip_rl.storage.checkpoint import UNREADABLE, load_tensors, on_cpu, read_tensors, save_tensors
from blip_rl.storage.integrity import RunFiles
from blip_rl.storage.metadata import Count, PolicyMetadata, StageNumber, describe_policy, read_metadata
from blip_rl.storage.returns import Finished, HeldBack
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot_names import new_snapshot_folder

_FORMAT = 2
_KEPT = 2  # snapshots; the older one is used if the newest is damaged
_MOST_POSITION = 624  # within the keys of MT19937, which numpy does not check and would read beyond

Phase = Literal["learning", "learned"]


class _AgentValues(BaseModel):
    """The values of :class:`blip_rl.learner.state.Snapshot`."""

    steps: Count
    task_began_at: Count
    updates: Count
    episodes: Episodes
    random_numpy: tuple[Literal["MT19937"], Annotated[Count, Field(le=_MOST_POSITION)], Literal[0, 1], float]


class _Metadata(PolicyMetadata):
    """``snapshot.json``."""

    format: Literal[2]
    stage: StageNumber
    phase: Phase
    games: list[DescribedGames]
    # Snapshots of runs without returns.csv, which was added later, have none.
    returns: dict[str, tuple[Annotated[Count, Field(ge=1)], float]] = Field(default_factory=dict)
    held_back: dict[str, tuple[list[Count], Count, float]] = Field(default_factory=dict)  # added later, too
    evidence: RunFiles
    recipe: str
    agent: _AgentValues
    method: dict[str, Any]


@dataclass(frozen=True)
class RunSnapshot:
    """The state of a run at one training step.

    Attributes:
        path: Its folder.
        stage: Number of the current task, from 1.
        phase: ``learning``, or ``learned`` if training of the task is done and consolidation is not.
        agent: Weights, optimizer, counters and random generators.
        method: State of the method.
        known_tasks: Names and action spaces of the tasks that have a head.
        games: Action log of the current task; of every task in multitask training.
        watched: Observations on which plasticity is measured; None before there are any.
        rollout_states: Observations of the task's last rollouts, to distil on; None if there are none.
        returns: Finished training episodes not yet written to ``returns.csv``.
        held_back: Finished training episodes that do not count yet; see :class:`TrainingReturns`.
        run_files: Sizes and digests of the files of the run.
        recipe: Text of ``config.toml``.
    """

    path: Path
    stage: int
    phase: Phase
    agent: state.Snapshot
    method: MethodState
    known_tasks: list[tuple[str, Any]]
    games: list[ActionLog]
    watched: Tensor | None
    rollout_states: Tensor | None
    returns: Finished
    held_back: HeldBack
    run_files: RunFiles
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
    games: Sequence[ActionLog],
    watched: Tensor | None,
    rollout_states: Tensor | None,
    finished: Finished,
    held_back: HeldBack,
) -> None:
    """Write a snapshot under a new name, then remove all but the newest two.

    Raises:
        OSError: The disk is full or not writable; earlier snapshots are unchanged.
    """
    taken, memory = state.take(agent), method.state()
    # A snapshot of stage n depends on the checkpoints before it only: those of n and later are written again on resume.
    written = integrity.digest_files(folder.path, [folder.stage_path(n) for n in folder.stages() if n < stage])
    metadata = {
        "format": _FORMAT,
        "stage": stage,
        "phase": phase,
        "games": [{"seed": played.seed, "episodes": played.episodes} for played in games],
        "returns": finished,
        "held_back": held_back,
        "evidence": asdict(written),
        "recipe": folder.recipe(),
        "agent": taken.values,
        "method": memory.values,
        **describe_policy(agent.policy),
    }
    tensors = {f"actions.{number}": from_numpy(played.actions) for number, played in enumerate(games)}
    kept = {"watched": watched, "rollout_states": rollout_states}
    tensors |= {name: observations for name, observations in kept.items() if observations is not None}
    path = new_snapshot_folder(folder.path / "checkpoints", agent.num_timesteps)
    with atomic.new_folder_with_digests(path, folder.check_lock) as beside:
        save_tensors(on_cpu(taken.tensors), beside / "agent.safetensors")
        save_tensors(on_cpu(memory.tensors), beside / "method.safetensors")
        save_tensors(on_cpu(tensors), beside / "games.safetensors")
        (beside / "snapshot.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    # Only now: if the process is killed before, there is still a complete snapshot under a final name.
    for old in folder.snapshots()[:-_KEPT]:
        atomic.remove(old, folder.check_lock)


def load(path: Path) -> RunSnapshot:
    """Read one snapshot.

    Headers are validated against the recipe stored in the snapshot before any tensor is allocated. The caller checks
    whether that recipe is still the run's.

    Raises:
        DamagedError: A file is missing, truncated, modified, or does not fit the recipe's network and method.
        UserError, OSError, RuntimeError, MemoryError: A file could not be read, or memory ran out
            (:func:`~blip_rl.errors.is_unread`), which says nothing about the snapshot.
    """
    try:
        metadata = read_metadata(path / "snapshot.json", _Metadata)
        config = parse_run_config(metadata.recipe, f"'{path / 'snapshot.json'}': recipe")
        tasks = metadata.task_spaces(config)
        learned = _learned_now(config, metadata.stage)
        _check_files(path, metadata.observation_space.space(), tasks, learned, config)
        if unknown := (metadata.returns.keys() | metadata.held_back.keys()) - {name for name, _ in tasks}:
            raise ValueError(f"returns of {', '.join(map(repr, unknown))}: not a task of this run")
        atomic.check_folder(path)  # after the size checks, since it reads every byte
        tensors = read_tensors(path / "games.safetensors")
        return RunSnapshot(
            path=path,
            stage=metadata.stage,
            phase=metadata.phase,
            agent=state.Snapshot(load_tensors(path / "agent.safetensors"), metadata.agent.model_dump()),
            method=MethodState(load_tensors(path / "method.safetensors"), metadata.method),
            known_tasks=tasks,
            games=action_logs(metadata.games, tensors, tasks, learned, config),
            watched=tensors.get("watched"),
            rollout_states=tensors.get("rollout_states"),
            returns=metadata.returns,
            held_back=metadata.held_back,
            run_files=metadata.evidence,
            recipe=metadata.recipe,
        )
    except atomic.DamagedError:
        raise
    except UNREADABLE as error:
        if isinstance(error, TooLittleMemoryError):
            atomic.check_folder(path)  # damaged, the recipe in it may be that of a larger network
        if is_unread(error):
            raise
        text = str(error) if isinstance(error, UserError) else f"'{path}' cannot be read: {error!r}"
        raise atomic.DamagedError(text) from error


def check_fits(saved: RunSnapshot, config: RunConfig, source: Path) -> None:
    """Check that a snapshot fits a recipe that has been changed since it was saved.

    Args:
        saved: The snapshot.
        config: The changed recipe.
        source: Its file, for the message.

    Raises:
        UserError: It belongs to another network or method.
    """
    observations = read_metadata(saved.path / "snapshot.json", _Metadata).observation_space.space()
    try:
        _check_files(saved.path, observations, saved.known_tasks, _learned_now(config, saved.stage), config)
    except ValueError as error:
        raise UserError(
            f"'{source}' has changed so that the run's snapshot no longer fits: {error} (undo the changes to the "
            "network and the method, or start a new run)"
        ) from error


def _check_files(
    path: Path,
    observations: spaces.Space[Any],
    tasks: validation.Tasks,
    learned: list[str | None],
    config: RunConfig,
) -> None:
    """Check that the files fit the recipe's network and method, and into memory.

    Raises:
        ValueError: They do not.
    """
    agent, memory, games = validation.headers(path, "agent", "method", "games")
    outline = validation.meta_policy(observations, tasks, config)
    files = {"weights and optimizer": agent, "the method's state": memory, "the action logs": games}
    validation.check_fits_memory(f"snapshot '{path}'", outline, files)
    validation.check_policy(agent, outline, "policy.")
    validation.check_optimizer(agent, outline, [name for name in outline.task_names if name in learned])
    validation.check_method(memory, outline, config)
    for name in ("watched", "rollout_states"):
        found = games.get(name)
        if found is not None and found.shape[1:] != observations.shape:
            raise ValueError(f"{name!r} is {found}: expected observations of {observations.shape}")


def _learned_now(config: RunConfig, stage: int) -> list[str | None]:
    """Return the names of the tasks trained in a stage; None for a task that is not in the recipe."""
    names = [task.name for task in config.tasks]
    if learns_together(str(config.agent.method["name"])):
        return [*names]
    return [config.task_of(stage).name if stage <= config.stages else None]
