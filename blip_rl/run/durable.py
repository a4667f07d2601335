"""Folders that exist whole or not at all, and tell when they have been damaged since they were written.

A folder is written beside its place, each file flushed to the disk, a digest of every file put with them, and the
folder renamed: a kill or a full disk at any moment leaves the old state or the new one, never half of either.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20


class DamagedError(RuntimeError):
    """A file is missing, cut off or changed."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a new folder: fill the one yielded; when the block ends well it appears as ``path``.

    A folder that is already there is replaced; it goes only once the new one is on the disk.

    Raises:
        OSError: the disk is full or may not be written; ``path`` is as it was.
    """
    beside = path.with_name(f".{path.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        digests = {file.name: _digest(file) for file in sorted(beside.iterdir())}
        (beside / _DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for file in beside.iterdir():
            _flush(file)
        _flush(beside)
        if path.exists():
            shutil.rmtree(path)
        beside.rename(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check(path: Path, *, required: bool = True) -> None:
    """Make sure that a folder is as it was written.

    Args:
        path: The folder.
        required: Whether a folder without digests counts as damaged; early versions wrote none.

    Raises:
        DamagedError: it is not; the message names the file.
    """
    if not required and not (path / _DIGESTS).exists():
        return
    try:
        digests = json.loads((path / _DIGESTS).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if Path(name).name != name or (path / name).is_symlink():
                raise DamagedError(f"'{path / _DIGESTS}' names {name!r}, which is not a file of this folder")
            if not isinstance(digest, str) or _digest(path / name) != digest:
                raise DamagedError(f"'{path / name}' is not as it was written: cut off or changed")
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedError(f"'{path}' is damaged: {error}") from error


def flush_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(text, encoding="utf-8")
    _flush(beside)
    beside.replace(path)


def _digest(file: Path) -> str:
    state = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
