"""Atomic writes: a file or folder has its old content or its new content, whatever happens to the writer.

Files (:func:`replacing`): the new content is written to a temporary file in the same folder, flushed and renamed. Every
temporary file has a name of its own, so that two writers do not meet, and is locked while its writer lives, so that
the next writer can remove those of killed processes. Replacing a file with several hard links leaves its other names
unchanged.

Folders (:func:`writing_folder`): written under a temporary name, each file flushed to the disk, ``digests.json`` with a
SHA-256 digest of every file added, and renamed. A folder is never replaced: new data gets a new name before the old
folder is removed, so that a kill or a full disk at any moment leaves at least one complete copy under a final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_rl.storage.lock import try_lock
from blip_rl.untrusted.files import read_json
from blip_rl.untrusted.machine import memory_bytes

_DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.blip-rl-[0-9a-f]{16}\.tmp")
_OLD_TEMPORARY = re.compile(r"\..+\.(zip|gif|webp|mp4|html)\.writing")  # of version 0.1.0


class DamagedError(RuntimeError):
    """A file is missing, truncated or modified."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace or create a file: write to the temporary file yielded; it is renamed to ``path`` if the block succeeds.

    Temporary files of killed processes in the same folder are removed.

    Raises:
        OSError: The disk is full or not writable; ``path`` is unchanged.
    """
    remove_abandoned(path.parent)
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
    """Write a file atomically.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as beside:
        beside.write_bytes(content)


def check_writable(folder: Path) -> None:
    """Check that files in a folder can be replaced.

    Raises:
        OSError: They cannot.
    """
    path, descriptor = _new_temporary(folder)
    path.unlink()
    os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writing process has ended; errors are ignored."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) or _OLD_TEMPORARY.fullmatch(entry.name):
                _remove_if_abandoned(Path(entry.path))


def _new_temporary(folder: Path) -> tuple[Path, int]:
    """Create and lock a temporary file; return its path and descriptor."""
    while True:
        path = folder / f".blip-rl-{secrets.token_hex(8)}.tmp"
        # Default permissions (umask): a file of the module tempfile would be readable by its owner alone.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # on a file system without locks the file is never removed as abandoned either
            try_lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another process removed it between creation and locking


def _remove_if_abandoned(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if try_lock(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def separate(path: Path, size: int | None = None) -> None:
    """Break hard links: replace a file by a copy of itself, so that later writes do not change its other names.

    Args:
        path: A file with several hard links.
        size: Number of bytes to copy; None copies all.

    Raises:
        OSError: as :func:`replacing`.
    """
    left = path.stat().st_size if size is None else size
    with replacing(path) as beside, path.open("rb") as old, beside.open("wb") as new:
        while left > 0 and (chunk := old.read(min(left, _CHUNK_BYTES))):
            new.write(chunk)
            left -= len(chunk)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Create a folder: fill the temporary folder yielded; it is renamed to ``path`` if the block succeeds.

    Raises:
        FileExistsError: ``path`` exists. Not every file system can exchange two folders atomically, so a
            replacement would leave a moment without either.
        OSError: The disk is full or not writable; the temporary folder is removed.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "a saved folder is never replaced", str(path))
    beside = _beside(path, "writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        digests = {file.name: file_digest(file) for file in sorted(beside.iterdir())}
        (beside / _DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for file in beside.iterdir():
            flush(file)
        flush(beside)
        beside.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder if it exists; rename it first, so that a partly deleted folder never has its final name."""
    aside = _beside(path, "removing")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def recover_folders(folder: Path) -> None:
    """Clean up temporary entries of killed processes in a folder.

    A folder that was completely written but not renamed yet gets its final name; every other entry is removed.
    """
    for ending in ("writing", "removing"):
        for left in folder.glob(f".*.{ending}"):
            if _completed(left):
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _completed(left: Path) -> bool:
    """Rename a complete temporary folder to its final name; return whether it was complete."""
    name = re.fullmatch(r"\.([\w-]+)\.writing", left.name)
    if name is None or left.is_symlink() or not left.is_dir() or os.path.lexists(left.with_name(name[1])):
        return False
    try:
        check_folder(left)
    except DamagedError:
        return False
    left.rename(left.with_name(name[1]))
    flush(left.parent)
    return True


def check_folder(path: Path, *, required: bool = True) -> None:
    """Verify the SHA-256 digests of all files in a folder.

    Args:
        path: The folder.
        required: Whether a folder without ``digests.json`` is damaged; early versions wrote none.

    Raises:
        DamagedError: A file is missing, truncated, modified or unlisted; the message names it.
    """
    if not required and not (path / _DIGESTS).exists():
        return
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
                raise DamagedError(f"'{path / name}' is not as it was written: cut off or changed")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DamagedError(f"'{path}' is damaged: {error}") from error


def folder_digest(path: Path) -> str:
    """Return one digest for a folder, that of its ``digests.json``; valid only if :func:`check_folder` succeeds."""
    return file_digest(path / _DIGESTS)


def file_digest(file: Path, size: int | None = None) -> str:
    """Return the SHA-256 digest of a file, or of its first ``size`` bytes, in hexadecimal."""
    state, left = hashlib.sha256(), file.stat().st_size if size is None else size
    with file.open("rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            state.update(chunk)
            left -= len(chunk)
    return state.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and flush it and its folder to the disk."""
    beside = _beside(path, "writing")
    beside.write_text(text, encoding="utf-8")
    flush(beside)
    beside.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Flush a file or folder to the disk (``fsync``)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
