"""Names of new folders: never the same one for two processes."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from blip_rl.errors import UserError


def stamped(stem: str) -> Path:
    """Return ``runs/<stem>-<time>``, the default output folder of a command; the time is in UTC."""
    return Path("runs") / f"{stem}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def make_folder(path: Path) -> Path:
    """Create an empty folder, appending a number if the name is taken, and return its path."""
    return take_name(path, lambda chosen: chosen.mkdir(parents=True), numbered=True)


def take_name(path: Path, create: Callable[[Path], None], *, numbered: bool) -> Path:
    """Create a file or folder under a free name.

    The attempt to create it decides whether a name is free; a check beforehand would be a race between processes.

    Args:
        path: The preferred name.
        create: Called with a path; raises ``FileExistsError`` if the name is taken.
        numbered: Whether to append ``-2``, ``-3``, … if the name is taken.

    Returns:
        The path created.

    Raises:
        UserError: The name is taken and ``numbered`` is false.
        OSError: It cannot be created.
    """
    for number in itertools.count(1):
        chosen = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            create(chosen)
        except OSError as error:
            if not isinstance(error, FileExistsError) and error.errno != errno.ENOTEMPTY:  # from a rename
                raise
            if not numbered:
                raise UserError(
                    f"output folder '{path}' exists: another process has just created it; choose a new --out"
                ) from error
        else:
            return chosen
    raise AssertionError("unreachable")
