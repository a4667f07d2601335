"""Resuming a run: choose its snapshot, remove what was written later, restore agent, method and environments.

A run is resumed from its newest snapshot that is readable and whose tables, event files and earlier checkpoints are
unchanged since it was saved.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blip_rl.config import RunConfig
from blip_rl.errors import RunError, UserError, error_text, is_unread
from blip_rl.learner import state
from blip_rl.run.autosave import Autosave
from blip_rl.run.context import RunContext
from blip_rl.run.scores import check_known
from blip_rl.storage import atomic, integrity
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.integrity import ChangedError, RunFiles
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot import RunSnapshot
from blip_rl.storage.snapshot_names import snapshot_steps
from blip_rl.storage.tables import read_scores


def newest_snapshot(folder: RunFolder, accept_changes: bool = False) -> RunSnapshot | None:
    """Return the newest usable snapshot; warn of newer ones that are not.

    Args:
        folder: The run's folder.
        accept_changes: Whether to accept files that were changed after the snapshot was saved.

    Returns:
        The snapshot. None restarts the run: there is no snapshot, or the only one is not readable and no task has been
        finished.

    Raises:
        RunError: No snapshot is usable, and restarting would lose too much; or a file could not be read just now.
        UserError: Files that every snapshot depends on were changed.
    """
    problems: list[atomic.DamagedError | ChangedError] = []
    try:
        for path in reversed(folder.snapshots()):
            try:
                saved = snapshots.load(path)
                _check_run_files(folder.path, saved.run_files, accept_changes)
            except (atomic.DamagedError, ChangedError) as error:
                problems.append(error)
                continue
            for problem in problems:
                warnings.warn(f"{problem}; resuming from the snapshot before it", stacklevel=2)
            return saved
    except Exception as error:
        if not is_unread(error):
            raise
        # Not damage: resuming from an older snapshot would remove one that may be good.
        raise RunError(
            f"'{folder.path}' cannot be read now: {error_text(error)}; nothing was changed (try again once the cause "
            "is gone)"
        ) from error
    _check_restart(folder, problems)
    return None


def _check_restart(folder: RunFolder, problems: Sequence[atomic.DamagedError | ChangedError]) -> None:
    """Check that a run without a usable snapshot may start again from the beginning.

    It may before its first snapshot, and if its first snapshot is damaged: nothing older is lost.

    Args:
        folder: The run's folder.
        problems: Why each snapshot is not usable, newest first.

    Raises:
        RunError, UserError: as :func:`newest_snapshot`.
    """
    for problem in problems:
        if isinstance(problem, ChangedError):
            raise UserError(f"{problem}: the results would differ from those of an uninterrupted run ({problem.fix})")
    stages = folder.stages()
    if not problems and stages:
        last = folder.stage_path(stages[-1]).name
        raise RunError(f"'{folder.path}' has the checkpoint {last} but no snapshot to resume from: start a new run")
    if len(problems) > 1 or (problems and stages):
        raise RunError(
            f"none of the {len(problems)} snapshots in '{folder.path}' can be read: start a new run "
            f"({'; '.join(map(str, problems))})"
        )
    for problem in problems:
        warnings.warn(f"{problem}; restarting from the beginning", stacklevel=3)


def _check_run_files(run: Path, then: RunFiles, accept_changes: bool) -> None:
    integrity.check_complete(run, then)
    try:
        integrity.check_unchanged(run, then)
    except ChangedError as error:
        if not accept_changes:
            raise
        integrity.check_rows(run, then)
        warnings.warn(f"resuming although {error}", stacklevel=3)


def check_scores(folder: RunFolder, saved: RunSnapshot, config: RunConfig) -> None:
    """Check that the scores up to a snapshot can be restored; the rows behind it, which are cut off, may be damaged.

    Raises:
        UserError: They cannot be read, or a row has a task or stage that the run does not have.
    """
    then = saved.run_files.files.get(folder.scores.name)
    if then is not None and then.rows:  # snapshots of earlier versions do not say how many rows are kept
        check_known(read_scores(folder.scores, then.rows - 1), config, folder.scores)


def resume_message(folder: RunFolder, config: RunConfig, saved: RunSnapshot | None) -> str:
    """Return what is printed on resume: the step, and how many later steps are lost and why."""
    steps, there = saved.steps if saved else 0, folder.snapshots()
    text = f"resuming {folder.path} at step {steps:,}"
    lost = max(folder.noted_steps(), *map(snapshot_steps, there), 0) - steps
    if lost <= 0:
        return text
    later = [path.name for path in there[there.index(saved.path) + 1 if saved else 0 :]]
    why = (
        f"{' and '.join(later)} cannot be used"
        if later
        else f"the process ended before the next snapshot (checkpoint.every_steps = {config.checkpoint.every_steps:,})"
    )
    return f"{text}: at least {lost:,} later steps are lost and will be repeated, because {why}"


def roll_back(folder: RunFolder, saved: RunSnapshot | None) -> None:
    """Remove what was written after a snapshot, or everything without one.

    Checkpoints of the snapshot's stage and of later ones are removed, to be written again. Replacing them later instead
    could leave neither the old nor the new one if the process were killed in between.

    Args:
        folder: The run's folder, locked.
        saved: The snapshot to resume from; None restarts the run.
    """
    if saved is None:
        folder.reset_tables()
        folder.forget_snapshots()
    else:
        # A kill at any point of this leaves a usable snapshot. From the first line on, newer snapshots are refused,
        # because the tables are shorter than they say; they are removed before the checkpoints that they refer to.
        folder.cut_tables(saved.run_files)
        folder.forget_snapshots(after=saved.path)
        folder.forget_stages(saved.stage)


def restore_task(run: RunContext, saved: RunSnapshot) -> Autosave:
    """Restore agent, method and environments of the task being learned.

    Args:
        run: The run; its agent uses that task.
        saved: The snapshot.

    Returns:
        The autosave with which the task is continued.

    Raises:
        UserError: The snapshot does not match the recipe's network, games or method.
    """
    with restored(run, saved, run.config.task_of(saved.stage).name):
        (played,) = saved.games
        run.agent.replay_games(played.seed, played.actions)
    return Autosave(run, saved.stage, played.seed, resumed=True)


@contextmanager
def restored(run: RunContext, saved: RunSnapshot, plasticity_task: str) -> Iterator[None]:
    """Restore agent and method, run the block, which replays the environments, and restore the random generators last.

    The random generators must be last: replaying resets the environments and may draw from the same generators.

    Args:
        run: The run; its agent has the snapshot's tasks.
        saved: The snapshot.
        plasticity_task: Name of the task on whose observations plasticity is measured.

    Raises:
        UserError: The snapshot does not match the recipe's network, games or method.
    """
    agent = run.agent
    try:
        state.restore(agent, saved.agent)
        run.method.load_state(saved.method)
        yield
    except RunError:  # a game failed
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"the snapshot does not match '{run.folder.config}': {error} (restore the file)") from error
    state.restore_random(agent, saved.agent)
    run.returns.finished, run.returns.held_back = dict(saved.returns), dict(saved.held_back)
    run.rollout_states.replace(saved.rollout_states)
    if saved.watched is not None:
        with agent.policy.using_task(plasticity_task):
            run.plasticity.measure_on(agent.policy, saved.watched)
