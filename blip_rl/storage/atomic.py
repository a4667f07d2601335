"""Replacing a file as a whole: readers see the old content or the new, whatever happens to the writer.

The new content is written to a temporary file beside the old one, flushed and renamed. Every temporary file has a name
of its own, so that two writers do not meet, and is locked while its writer lives, so that the next writer can remove
what a killed one left. A file with several hard links is not changed through its other names.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_rl.storage.lock import try_lock

_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.blip-rl-[0-9a-f]{16}\.tmp")
_OLD_TEMPORARY = re.compile(r"\..+\.(zip|gif|webp|mp4|html)\.writing")  # of version 0.1.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file: fill the temporary one yielded; when the block ends well it becomes ``path``.

    Temporary files that killed processes left in the folder are removed.

    Raises:
        OSError: the disk is full or may not be written; ``path`` is as it was.
    """
    sweep(path.parent)
    beside, descriptor = _new_temporary(path.parent)
    try:
        yield beside
        os.fsync(descriptor)
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        os.close(descriptor)


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a whole file.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as beside:
        beside.write_bytes(content)


def check_writable(folder: Path) -> None:
    """Make sure that files in a folder can be replaced.

    Raises:
        OSError: they cannot.
    """
    path, descriptor = _new_temporary(folder)
    path.unlink()
    os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files whose writers are gone; nothing is raised if that is not possible."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) or _OLD_TEMPORARY.fullmatch(entry.name):
                _remove_if_abandoned(Path(entry.path))


def _new_temporary(folder: Path) -> tuple[Path, int]:
    """A new, locked file, and its descriptor."""
    while True:
        path = folder / f".blip-rl-{secrets.token_hex(8)}.tmp"
        # With the permissions of any new file; those of the module tempfile would hide it from others.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # without locks the file is not swept either
            try_lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another process swept it before it was locked


def _remove_if_abandoned(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if try_lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def separate(path: Path, size: int | None = None) -> None:
    """Replace a file by a copy of itself, so that what is written to it does not appear under its other names.

    Args:
        path: A file with several hard links.
        size: How many bytes to copy; None copies all.

    Raises:
        OSError: as :func:`replacing`.
    """
    left = path.stat().st_size if size is None else size
    with replacing(path) as beside, path.open("rb") as old, beside.open("wb") as new:
        while left > 0 and (chunk := old.read(min(left, _CHUNK_BYTES))):
            new.write(chunk)
            left -= len(chunk)
