"""Which snapshot a run is resumed from, and how much of what was learned after it is lost.

It is the newest snapshot that can be read and whose tables, events and earlier checkpoints are unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from blip_rl.config import RunConfig
from blip_rl.errors import RunError, UserError
from blip_rl.learner import state
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.autosave import Autosave
from blip_rl.run.context import RunContext
from blip_rl.storage import atomic, integrity
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.integrity import ChangedError, RunFiles
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot import RunSnapshot
from blip_rl.storage.snapshot_names import noted_steps, snapshot_steps


def newest_snapshot(folder: RunFolder, accept_changes: bool = False) -> RunSnapshot | None:
    """The newest snapshot that can be gone on from; None for the run's beginning. Newer ones are warned of.

    Args:
        folder: The run's.
        accept_changes: Whether evidence that is another than when the snapshot was saved will do.

    Raises:
        RunError: there are some, none can be read, and the beginning is too far back.
        UserError: evidence has changed that all of them build on.
    """
    problems: list[atomic.DamagedError | ChangedError] = []
    for path in reversed(folder.snapshots()):
        try:
            saved = snapshots.load(path)
            _check_run_files(folder.path, saved.run_files, accept_changes)
        except (atomic.DamagedError, ChangedError) as error:
            problems.append(error)
            continue
        for problem in problems:
            warnings.warn(f"{problem}; going on from the snapshot before it", stacklevel=2)
        return saved
    for problem in problems:
        if isinstance(problem, ChangedError):
            raise UserError(f"{problem}: the run would not end as if it had never stopped ({problem.fix})")
    if len(problems) == 1 and not folder.stages():  # the run's first snapshot: before it there is the beginning
        warnings.warn(f"{problems[0]}; going on from the beginning", stacklevel=2)
        return None
    if not problems and folder.stages():
        last = folder.stage_path(folder.stages()[-1]).name
        raise RunError(f"'{folder.path}' has the checkpoint {last} but no snapshot to resume from: start a new run")
    if problems:
        told = "; ".join(map(str, problems))
        raise RunError(
            f"none of the {len(problems)} snapshots in '{folder.path}' can be read: start a new run ({told})"
        )
    return None


def _check_run_files(run: Path, then: RunFiles, accept_changes: bool) -> None:
    integrity.check_complete(run, then)
    try:
        integrity.check_unchanged(run, then)
    except ChangedError as error:
        if not accept_changes:
            raise
        warnings.warn(f"going on although {error}", stacklevel=3)


def resume_message(folder: RunFolder, config: RunConfig, saved: RunSnapshot | None) -> str:
    """What is printed when a run is resumed: the step, and how much was learned after it, lost, and why."""
    steps, there = saved.steps if saved else 0, folder.snapshots()
    text = f"resuming {folder.path} at step {steps:,}"
    lost = max(noted_steps(folder.path), *map(snapshot_steps, there), 0) - steps
    if lost <= 0:
        return text
    later = [path.name for path in there[there.index(saved.path) + 1 if saved else 0 :]]
    why = (
        f"{' and '.join(later)} cannot be used"
        if later
        else f"the process ended before the next snapshot (checkpoint.every_steps = {config.checkpoint.every_steps:,})"
    )
    return f"{text}: at least {lost:,} steps after it are lost and learned again, because {why}"


def roll_back(folder: RunFolder, saved: RunSnapshot | None) -> None:
    """Remove what was written after a snapshot; without one, everything.

    Stages from the snapshot's own on are saved again: a checkpoint is never replaced, as a kill in between would leave
    neither the old one nor the new one.
    """
    if saved is None:
        folder.reset_tables()
        folder.forget_snapshots()
    else:
        integrity.truncate(folder.path, saved.run_files)
        folder.begin_tables()
        folder.forget_snapshots(after=saved.path)
        folder.forget_stages(saved.stage)


def restore_task(run: RunContext, saved: RunSnapshot) -> Autosave:
    """Put the run's agent, with its task in use, and its method where a snapshot has them.

    Raises:
        UserError: the snapshot is of another network, other games or another method than the recipe's.
    """
    agent = cast(ContinualPPO, run.agent)
    with restored(run, saved, run.config.tasks[saved.stage - 1].name):
        (played,) = saved.games
        agent.replay_games(played.seed, played.actions)
    return Autosave(run, saved.stage, played.seed, resumed=True)


@contextmanager
def restored(run: RunContext, saved: RunSnapshot, plasticity_task: str) -> Iterator[None]:
    """Put agent and method where a snapshot has them; the block replays the games.

    Args:
        run: Its agent has the same tasks as the snapshot's.
        saved: The snapshot.
        plasticity_task: The task on whose states plasticity is measured.

    Raises:
        UserError: the snapshot is of another network, other games or another method than the recipe's.
    """
    agent = cast(ContinualPPO, run.agent)
    try:
        state.put(agent, saved.agent)
        run.method.load_state(saved.method)
        yield
    except RunError:  # of a game
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"the snapshot does not fit '{run.folder.config}': {error} (take its changes back)") from error
    state.put_random(agent, saved.agent)
    run.returns.finished = dict(saved.returns)
    if saved.watched is not None:
        with agent.policy.using_task(plasticity_task):
            run.plasticity.watch(agent.policy, saved.watched)
