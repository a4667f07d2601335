"""The folder of a sweep: its runs, ``sweep.json``, logs, and the check that a plan belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.formatting import flatten
from blip_rl.recipe_errors import show
from blip_rl.recipes import with_defaults
from blip_rl.storage.atomic import is_temporary
from blip_rl.storage.lock import locked
from blip_rl.storage.paths import check_parent
from blip_rl.storage.run_folder import RunFolder
from blip_rl.sweeps.manifest import LOGS, MANIFEST, Manifest, load_manifest, save_manifest

SEARCH = "search.json"
"""File in the folder of a search that lists its trials."""
_LOCK = ".lock"
_DIFFERENCES_NAMED = 3


def check_folder(folder: Path, manifest: Manifest) -> None:
    """Check that a sweep may be run in a folder: a new one, or one that began with this plan or a similar one.

    Raises:
        UserError: It holds something else, or another sweep.
    """
    if not folder.exists():
        check_parent(folder)
        return
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file: expected a folder of a sweep, or a new one (--out)")
    if not (folder / MANIFEST).exists():
        if any(entry.name not in (_LOCK, LOGS) and not is_temporary(entry.name) for entry in folder.iterdir()):
            raise UserError(f"'{folder}' is not the folder of a sweep (it has no {MANIFEST}): choose a new --out")
        return
    _check_same_sweep(folder, load_manifest(folder), manifest)


def _check_same_sweep(folder: Path, before: Manifest, now: Manifest) -> None:
    """Refuse a plan that has no run in common with the folder, or that defines an existing run name differently."""
    shared = [name for name in now.settings if name in before.settings]
    for name in shared:
        there, here = (with_defaults(one.config_of(name)) for one in (before, now))
        if there != here:
            raise _another_sweep(folder, f"{name} differs in {_differences(there, here)}")
    if before.threads != now.threads:
        raise _another_sweep(folder, f"its runs have {before.threads} threads, those of the plan {now.threads}")
    if before.runs and not {run.name for run in now.runs} & {run.name for run in before.runs}:
        raise _another_sweep(folder, "it shares no run with this plan")


def _another_sweep(folder: Path, why: str) -> UserError:
    return UserError(f"'{folder}' is the folder of another sweep: {why} (choose a new --out)")


def _differences(before: RunConfig, now: RunConfig) -> str:
    there, here = (dict(flatten(one.model_dump(mode="json"))) for one in (before, now))
    changed = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    named = [
        f"{key}: {show(there.get(key))} there, {show(here.get(key))} in the plan"
        for key in changed[:_DIFFERENCES_NAMED]
    ]
    more = [f"and {len(changed) - len(named)} more settings"] if len(changed) > len(named) else []
    return "; ".join([*named, *more])


@contextmanager
def open_folder(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Write ``sweep.json`` and hold the sweep's lock within the block, so that no second process runs the same sweep.

    A new folder is removed if the block raises UserError before a run begins, because the engine cannot run here.

    Raises:
        UserError: Another process runs it, or :func:`check_folder` refuses.
        OSError: The folder is not writable.
    """
    check_folder(folder, manifest)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK):
            check_folder(folder, manifest)  # another process may have begun a sweep meanwhile
            save_manifest(folder, manifest)
            yield
    except UserError:
        if new:
            with suppress(OSError):  # the error says more
                _remove_without_runs(folder)
        raise
    except TimeoutError as error:
        raise UserError(f"another process runs the sweep in '{folder}': wait for it, or stop it first") from error


def _remove_without_runs(folder: Path) -> None:
    """Remove a folder in which no run has begun, unless something else is in it."""
    own = (SEARCH, MANIFEST, _LOCK)
    if all(entry.name in own for entry in folder.iterdir()):
        for name in own:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def finished_runs(folder: Path, manifest: Manifest) -> set[str]:
    """Return the names of the runs that are finished."""
    stages = {name: manifest.config_of(name).stages for name in manifest.settings}
    return {run.name for run in manifest.runs if RunFolder(folder / run.name).finished(stages[run.setting])}


def begun_runs(folder: Path) -> list[Path]:
    """Return the folders of the runs of a sweep that have begun, by setting and in the order of the plan.

    Raises:
        UserError: ``sweep.json`` is missing or invalid.
    """
    manifest = load_manifest(folder)
    order = list(manifest.settings)
    runs = sorted(manifest.runs, key=lambda run: order.index(run.setting))
    return [path for run in runs if ((path := folder / run.name) / "config.toml").is_file()]


def foreign_runs(folder: Path, manifest: Manifest) -> list[str]:
    """Return the names of run folders that do not belong to the plan, as after it was changed."""
    if not folder.is_dir():
        return []
    own = {run.name for run in manifest.runs}
    return sorted(path.parent.name for path in folder.glob("*/config.toml") if path.parent.name not in own)
