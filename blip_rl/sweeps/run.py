"""Run the unfinished runs of a sweep with an engine, and print a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blip_rl.errors import InterruptedRunError, RunError
from blip_rl.shell import shell_command
from blip_rl.storage import provenance
from blip_rl.sweeps.engine import Engine
from blip_rl.sweeps.folder import finished_runs, foreign_runs, open_folder
from blip_rl.sweeps.manifest import Manifest
from blip_rl.sweeps.schedule import JobState, Schedule
from blip_rl.sweeps.table import Table

_NAMED = 10


def run_sweep(folder: Path, manifest: Manifest, engine: Engine, *, retries: int) -> None:
    """Run what is not finished, and print the progress and how to compare the runs.

    Args:
        folder: The sweep's folder.
        manifest: Its runs.
        engine: Places them.
        retries: How often a run whose worker died is tried again.

    Raises:
        UserError: The folder is another sweep's, or another process runs it; or the engine cannot run here.
        RunError: Runs have failed; the others are finished.
        InterruptedRunError: A signal stopped the sweep; every run is saved.
    """
    with open_folder(folder, manifest):
        print(opening_text(folder, manifest, len(finished_runs(folder, manifest))), flush=True)
        states = run_jobs(folder, manifest, engine, retries=retries)
    print(f"compare  {shell_command('blip-rl', 'report', folder)}", flush=True)
    if failed := [one for one in states if one.state == "failed"]:
        raise RunError(failed_text(failed, len(manifest.runs)))


def run_jobs(folder: Path, manifest: Manifest, engine: Engine, *, retries: int) -> list[JobState]:
    """Run what is not finished, within :func:`~blip_rl.sweeps.folder.open_folder`; return how each of these runs ended.

    Raises:
        UserError: The engine cannot run here.
        InterruptedRunError: A signal stopped the sweep; every run is saved.
    """
    done = finished_runs(folder, manifest)
    jobs = [job for job in manifest.jobs(folder) if job.name not in done]
    if not jobs:
        return []
    steps = {run.name: manifest.config(run).all_played_steps for run in manifest.runs if run.name not in done}
    schedule = Schedule(jobs, engine, retries, Table(steps, len(done)).show)
    states = schedule.run()
    if schedule.stopped_by is not None:
        raise InterruptedRunError(_stopped_text(states, len(done)), schedule.stopped_by)
    return states


def opening_text(folder: Path, manifest: Manifest, done: int) -> str:
    """Describe a sweep before it begins, and name the run folders that do not belong to its plan."""
    names = ", ".join(list(manifest.settings)[:_NAMED])
    more = f" and {len(manifest.settings) - _NAMED} more" if len(manifest.settings) > _NAMED else ""
    finished = f", {done} of them finished already" if done else ""
    lines = [f"sweep {folder}: {len(manifest.runs)} runs of {names}{more}{finished}"]
    if foreign := foreign_runs(folder, manifest):
        lines.append(
            f"{len(foreign)} runs there do not belong to this plan and are left alone: {_listed(foreign)} (move them "
            "away if you no longer need them)"
        )
    return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def failed_text(failed: Sequence[JobState], runs: int) -> str:
    """Return for each failed run its error message, its log file and the command that trains it separately."""
    lines = [f"{len(failed)} of {runs} runs failed:"]
    for one in failed[:_NAMED]:
        message = one.outcome.message if one.outcome else ""
        tries = f" (tried {one.retries + 1} times)" if one.retries else ""
        lines += [f"  {one.job.name}: {message}{tries}", f"    log {one.job.log}", f"    command: {one.job.command}"]
    if len(failed) > _NAMED:
        lines.append(f"  and {len(failed) - _NAMED} more")
    return "\n".join(lines)


def _stopped_text(states: Sequence[JobState], done: int) -> str:
    count = {state: sum(one.state == state for one in states) for state in ("finished", "interrupted", "failed")}
    parts = [f"{done + count['finished']} of {done + len(states)} runs finished", f"{count['interrupted']} interrupted"]
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    return f"stopped: {', '.join(parts)}; continue with: {provenance.command()}"
