"""What a resume finds in a run folder: names of snapshots, and how many steps were learned.

The name of a snapshot is ``step-<training steps>``; a further snapshot of the same step, as at the boundary between two
tasks, is ``step-<training steps>-2`` and so on, so that none is ever replaced.
"""

from __future__ import annotations

import re
from pathlib import Path

from blip_rl.errors import UserError
from blip_rl.untrusted.files import read_text

_SNAPSHOT = re.compile("step-([0-9]{1,18})(?:-([0-9]{1,9}))?")
_MOST_DIGITS = 18
_STEPS = ".steps"


def snapshot_folders(checkpoints: Path) -> list[Path]:
    """Folders of the snapshots below ``checkpoints``, in the order in which they were written."""
    found = (path for path in checkpoints.glob("step-*") if _SNAPSHOT.fullmatch(path.name))
    return sorted((path for path in found if path.is_dir() and not path.is_symlink()), key=snapshot_order)


def new_snapshot_folder(checkpoints: Path, env_steps: int) -> Path:
    """A path for the next snapshot that no other has."""
    orders = map(snapshot_order, snapshot_folders(checkpoints))
    number = max((number for steps, number in orders if steps == env_steps), default=0) + 1
    return checkpoints / (f"step-{env_steps:012d}" + (f"-{number}" if number > 1 else ""))


def snapshot_order(path: Path) -> tuple[int, int]:
    """Training steps of a snapshot, and its number among the snapshots of that step, from its folder's name."""
    steps, _, number = path.name.removeprefix("step-").partition("-")
    return int(steps), int(number or 1)


def snapshot_steps(path: Path) -> int:
    """Training steps of the run when the snapshot in a folder was saved."""
    return snapshot_order(path)[0]


def note_steps(run: Path, env_steps: int) -> None:
    """Store how many training steps are learned, so that a resume can say how many of them are lost."""
    forget_steps(run)  # not overwritten: it could be a link to another file
    with (run / _STEPS).open("x", encoding="utf-8") as file:
        file.write(str(env_steps))


def noted_steps(run: Path) -> int:
    """What :func:`note_steps` stored last; 0 if there is nothing or it cannot be read."""
    try:
        text = read_text(run / _STEPS, _MOST_DIGITS)
    except UserError:
        return 0
    return int(text) if text.isascii() and text.isdecimal() else 0


def forget_steps(run: Path) -> None:
    """Remove what :func:`note_steps` stored."""
    (run / _STEPS).unlink(missing_ok=True)
