"""Names of snapshot folders.

A snapshot is named ``step-<training steps>``; further snapshots at the same step, as at a task boundary, are named
``step-<training steps>-2`` and so on, so that none is ever replaced.
"""

from __future__ import annotations

import re
from pathlib import Path

_SNAPSHOT = re.compile("step-([0-9]{1,18})(?:-([0-9]{1,9}))?")


def snapshot_folders(checkpoints: Path) -> list[Path]:
    """Return the snapshot folders in ``checkpoints``, oldest first.

    Raises:
        OSError: ``checkpoints`` cannot be read.
    """
    found = (path for path in entries(checkpoints) if _SNAPSHOT.fullmatch(path.name))
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=snapshot_order)


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it is missing.

    Raises:
        OSError: It cannot be read. ``glob`` returns nothing then, and a resume would take the run for one without
            snapshots.
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def new_snapshot_folder(checkpoints: Path, env_steps: int) -> Path:
    """Return an unused path for the next snapshot."""
    orders = map(snapshot_order, snapshot_folders(checkpoints))
    number = max((number for steps, number in orders if steps == env_steps), default=0) + 1
    return checkpoints / (f"step-{env_steps:012d}" + (f"-{number}" if number > 1 else ""))


def snapshot_order(path: Path) -> tuple[int, int]:
    """Return the training steps of a snapshot and its number among those of that step, from its folder name."""
    steps, _, number = path.name.removeprefix("step-").partition("-")
    return int(steps), int(number or 1)


def snapshot_steps(path: Path) -> int:
    """Return the training steps of the run at a snapshot."""
    return snapshot_order(path)[0]
