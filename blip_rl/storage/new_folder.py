"""New folders: complete or absent, and never the same one for two processes."""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from blip_rl.errors import UserError
from blip_rl.storage.lock import locked

_LOCK = ".lock"
_TEMPORARY = re.compile(r"\.blip-rl-[0-9a-f]{16}\.new")


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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder atomically: the block creates and fills the path yielded, which is then renamed to ``path``.

    If the block raises, nothing is left, including parent folders created here. Temporary folders of killed processes
    beside ``path`` are removed.

    Raises:
        FileExistsError: ``path`` exists.
        OSError: The folder cannot be created.
    """
    parent = path.absolute().parent
    first_missing = next((folder for folder in [parent, *parent.parents][::-1] if not folder.exists()), None)
    around = parent / f".blip-rl-{secrets.token_hex(8)}.new"
    try:
        around.mkdir(parents=True)
        with locked(around / _LOCK):
            _sweep(parent)
            yield around / path.name
            if os.path.lexists(path):
                raise FileExistsError(f"'{path}' exists")
            (around / path.name).rename(path)
    finally:
        shutil.rmtree(around, ignore_errors=True)
        _remove_empty(parent, first_missing)


def _sweep(parent: Path) -> None:
    """Remove temporary folders whose creating process has ended."""
    for left in parent.iterdir():
        if _TEMPORARY.fullmatch(left.name) and (left / _LOCK).is_file() and not left.is_symlink():
            with suppress(OSError), locked(left / _LOCK):
                shutil.rmtree(left, ignore_errors=True)


def _remove_empty(folder: Path, last: Path | None) -> None:
    """Remove a folder and its parents up to ``last``, as long as they are empty."""
    if last is None or not folder.is_relative_to(last):
        return
    with suppress(OSError):
        folder.rmdir()
        _remove_empty(folder.parent, last)
