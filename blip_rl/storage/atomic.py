"""Atomic writes: a file or folder has its old content or its new content, whatever happens to the writer.

All writers work alike. A temporary file ``.blip-rl-<random>.tmp``, locked while the process lives, marks a write in
progress; a new folder is filled in ``.blip-rl-<random>.new`` beside it. The content is flushed to the disk, renamed to
its final name, and the parent folder is flushed. Random names keep concurrent writers apart; killed ones lock nothing.

The content is flushed before the rename, because after a power failure a file system may have the rename without the
data (https://lwn.net/Articles/322823/). The folder is flushed after it, because otherwise the rename could be lost.

An existing folder is never replaced: most file systems cannot exchange two folders atomically, so there would be a
moment with neither. New data gets a new name before the old folder is removed.

Writers that hold a lock pass its ``check``, called first and just before the rename: it raises if the lock was taken
over. After a suspension in between, the rename fails: whoever takes over removes all temporary files (:func:`recover`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from blip_rl.errors import UserError, is_unread
from blip_rl.storage.lock import try_lock
from blip_rl.untrusted.files import read_json
from blip_rl.untrusted.machine import memory_bytes

_DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.blip-rl-[0-9a-f]{16}\.tmp")

Check = Callable[[], None]
"""Raises if this process may no longer write."""


def unlocked() -> None:
    """Check nothing: the file has no lock."""


class DamagedError(RuntimeError):
    """A file is missing, truncated or modified."""


@contextmanager
def replacing(path: Path, check: Check = unlocked) -> Iterator[Path]:
    """Replace or create a file: write to the temporary file yielded; it is renamed to ``path`` if the block succeeds.

    If ``path`` has several hard links, its other names keep the old content.

    Raises:
        OSError: The disk is full or not writable.
    """
    with _temporary(path.parent, check) as (beside, descriptor):
        yield beside
        os.fsync(descriptor)
        check()
        beside.replace(path)
        flush(path.parent)


def replace_bytes(path: Path, content: bytes, check: Check = unlocked) -> None:
    """Write a file atomically.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path, check) as beside:
        beside.write_bytes(content)


def replace_text(path: Path, text: str, check: Check = unlocked) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        OSError: as :func:`replacing`.
    """
    replace_bytes(path, text.encode(), check)


def separate(path: Path, size: int | None = None, check: Check = unlocked) -> None:
    """Replace a file by a copy of itself: later writes to its other names, or by who has it open, do not change it.

    Args:
        path: A file that may have several hard links.
        size: Number of bytes to copy; None copies all.
        check: See :data:`Check`.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path, check) as beside, path.open("rb") as old, beside.open("wb") as new:
        for chunk in chunks(old, path.stat().st_size if size is None else size):
            new.write(chunk)


@contextmanager
def new_folder(path: Path, check: Check = unlocked) -> Iterator[Path]:
    """Create a folder: fill the temporary folder yielded; it is renamed to ``path`` if the block succeeds.

    Otherwise nothing is left, including parent folders created here.

    Raises:
        OSError: ``path`` exists, or the disk is full or not writable.
    """
    missing = [parent for parent in path.absolute().parents if not parent.exists()]  # innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary(path.parent, check) as (mark, _):
            # Inside a folder, because _complete needs the final name.
            beside = _folder_of(mark) / path.name
            beside.mkdir(parents=True)
            yield beside
            for file in [*beside.rglob("*"), beside]:
                flush(file)
            if os.path.lexists(path):  # rename would replace an empty folder
                raise FileExistsError(errno.EEXIST, "a saved folder is never replaced", str(path))
            check()
            beside.rename(path)
            flush(path.parent)
    finally:
        with suppress(OSError):  # raised by the first one that is not empty
            for parent in missing:
                parent.rmdir()


@contextmanager
def new_folder_with_digests(path: Path, check: Check = unlocked) -> Iterator[Path]:
    """Create a folder as :func:`new_folder`, with ``digests.json``: the SHA-256 digest of each of its files."""
    with new_folder(path, check) as beside:
        yield beside
        digests = {file.name: file_digest(file) for file in sorted(beside.iterdir())}
        (beside / _DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def remove(path: Path, check: Check = unlocked) -> None:
    """Remove a file or folder if it exists; renamed first, so that a partly deleted folder never has its final name."""
    if os.path.lexists(path):
        with _temporary(path.parent, check) as (mark, _):
            away = _folder_of(mark) / "removed"  # not directly in the new folder, where _complete would find it
            away.mkdir(parents=True)
            check()
            path.rename(away / path.name)


def check_writable(folder: Path) -> None:
    """Check that files in a folder can be replaced.

    Raises:
        OSError: They cannot.
    """
    with _temporary(folder, unlocked):
        pass


def is_temporary(name: str) -> bool:
    """Return whether a file of this name marks a write in progress."""
    return _TEMPORARY.fullmatch(name) is not None


def recover(folder: Path, *, from_suspended: bool = False) -> None:
    """Clean up after processes that were killed while they wrote in a folder; errors are ignored.

    A new folder that was complete, according to its digests, but not renamed yet gets its final name. Everything else
    is removed.

    Args:
        folder: Where to clean up.
        from_suspended: Whether to clean up after a process that may continue, too. Otherwise what other processes have
            locked is left alone, because they are writing it. A report that is written at this moment fails.
    """
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if is_temporary(entry.name):
                _recover(entry, from_suspended)


def _recover(mark: Path, from_suspended: bool) -> None:
    with suppress(OSError, UserError):  # what cannot be read now is kept
        descriptor = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if from_suspended or try_lock(descriptor):
                _complete(mark)
                _remove(mark)
        finally:
            os.close(descriptor)


def _complete(mark: Path) -> None:
    """Give the folder that belongs to ``mark`` its final name if it is complete and that name is free."""
    if _folder_of(mark).is_symlink():
        return
    for beside in _folder_of(mark).glob("*"):
        path = mark.with_name(beside.name)
        if beside.is_dir() and not beside.is_symlink() and not os.path.lexists(path):
            with suppress(DamagedError):
                check_folder(beside)
                beside.rename(path)
                flush(path.parent)


@contextmanager
def _temporary(folder: Path, check: Check) -> Iterator[tuple[Path, int]]:
    """Create and lock a temporary file; yield its path and descriptor; remove it, and the folder that belongs to it."""
    check()
    recover(folder)
    mark, descriptor = _new_mark(folder)
    try:
        yield mark, descriptor
    finally:
        with suppress(OSError):
            _remove(mark)
        os.close(descriptor)


def _new_mark(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f".blip-rl-{secrets.token_hex(8)}.tmp"
        # Default permissions (umask): a file of the module tempfile would be readable by its owner alone.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # without file locks, no other process can lock the file and remove it either
            try_lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another process removed it between creation and locking


def _folder_of(mark: Path) -> Path:
    return mark.with_suffix(".new")


def _remove(mark: Path) -> None:
    """Remove a temporary file and its folder: the folder first, because without the file nobody would find it."""
    shutil.rmtree(_folder_of(mark), ignore_errors=True)
    if not _folder_of(mark).exists():
        mark.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Verify the SHA-256 digests of all files in a folder.

    Raises:
        DamagedError: A file is missing, truncated, modified or unlisted; the message names it.
        UserError, OSError: A file could not be read (:func:`is_unread`), and need not be damaged.
    """
    try:
        digests = read_json(path / _DIGESTS)
        if unlisted := {file.name for file in path.iterdir() if file.name[0] != "."} - {_DIGESTS, *digests}:
            raise DamagedError(f"'{path / _DIGESTS}' has no digest of {', '.join(sorted(unlisted)[:3])}")
        for name, expected in digests.items():
            if Path(name).name != name or (path / name).is_symlink():
                raise DamagedError(f"'{path / _DIGESTS}' names {name!r}, which is not a file of this folder")
            if (path / name).stat().st_size > memory_bytes():
                raise DamagedError(f"'{path / name}' is larger than this machine's memory: no part of a checkpoint")
            if not isinstance(expected, str) or file_digest(path / name) != expected:
                raise DamagedError(f"'{path / name}' is not as it was written: truncated or changed")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        if is_unread(error):
            raise
        raise DamagedError(f"'{path}' is damaged: {error}") from error


def folder_digest(path: Path) -> str:
    """Return one digest for a folder, that of its ``digests.json``; valid only if :func:`check_folder` succeeds."""
    return file_digest(path / _DIGESTS)


def file_digest(file: Path, size: int | None = None) -> str:
    """Return the SHA-256 digest of a file, or of its first ``size`` bytes, in hexadecimal."""
    state = hashlib.sha256()
    with file.open("rb") as stream:
        for chunk in chunks(stream, file.stat().st_size if size is None else size):
            state.update(chunk)
    return state.hexdigest()


def chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Read at most ``size`` bytes, in pieces."""
    while size > 0 and (chunk := stream.read(min(size, _CHUNK_BYTES))):
        yield chunk
        size -= len(chunk)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk (``fsync``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from network file systems that cannot flush a folder
            raise
    finally:
        os.close(descriptor)
