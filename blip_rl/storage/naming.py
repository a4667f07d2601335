"""New folders: two processes never get the same one."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from blip_rl.errors import UserError


def stamped(stem: str) -> Path:
    """Return ``runs/<stem>-<time>``, the default place of what a command makes."""
    return Path("runs") / f"{stem}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def make_folder(path: Path) -> Path:
    """Create a new, empty folder, with a number after its name if that is taken, and return its path."""
    return take_name(path, lambda chosen: chosen.mkdir(parents=True), numbered=True)


def take_name(path: Path, create: Callable[[Path], None], *, numbered: bool) -> Path:
    """Create something under a name that is free. Creating it decides who gets a name, not looking before.

    Args:
        path: The name wanted.
        create: Creates it; raises ``FileExistsError`` if the name is taken.
        numbered: Whether to append ``-2``, ``-3``, … where the name is taken.

    Returns:
        The name.

    Raises:
        UserError: the name is taken and ``numbered`` is false.
        OSError: it cannot be created.
    """
    for number in itertools.count(1):
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            create(chosen)
        except OSError as error:
            if not isinstance(error, FileExistsError) and error.errno != errno.ENOTEMPTY:  # from renaming a folder
                raise
            if not numbered:
                raise UserError(
                    f"output folder '{path}' exists: another process has just created it; choose a new --out"
                ) from error
        else:
            return chosen
    raise AssertionError("unreachable")
