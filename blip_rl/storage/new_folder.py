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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create and fill the folder yielded, which does not exist yet; when the block ends well it becomes ``path``.

    If it does not, nothing is left, not even a parent folder that was made for it. What a killed process left beside
    ``path`` is removed by the next one.

    Raises:
        FileExistsError: ``path`` exists.
        OSError: the folder cannot be created.
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
    """Remove the folders of processes that are gone."""
    for left in parent.iterdir():
        if _TEMPORARY.fullmatch(left.name) and (left / _LOCK).is_file() and not left.is_symlink():
            with suppress(OSError), locked(left / _LOCK):
                shutil.rmtree(left, ignore_errors=True)


def _remove_empty(folder: Path, last: Path | None) -> None:
    """Remove a folder and those above it up to ``last``, as far as they are empty."""
    if last is None or not folder.is_relative_to(last):
        return
    with suppress(OSError):
        folder.rmdir()
        _remove_empty(folder.parent, last)
