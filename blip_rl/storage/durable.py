"""Atomic folders: complete or absent, with a SHA-256 digest of every file so that damage is detected.

A folder is written under a temporary name, each file flushed to the disk, ``digests.json`` added, and the folder
renamed. A folder is never replaced: new data gets a new name before the old folder is removed, so that a kill or a full
disk at any moment leaves at least one complete copy under a final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from blip_rl.untrusted.files import read_json
from blip_rl.untrusted.machine import memory_bytes

_DIGESTS = "digests.json"
_CHUNK_BYTES = 1 << 20


class DamagedError(RuntimeError):
    """A file is missing, cut off or changed."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write a new folder: fill the temporary one yielded; it is renamed to ``path`` when the block ends without error.

    Raises:
        FileExistsError: ``path`` exists. Two folders cannot be exchanged atomically on every file system, so
            replacing one would leave a moment without either.
        OSError: the disk is full or cannot be written; nothing is left of the new folder.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "a saved folder is never replaced", str(path))
    beside = _beside(path, "writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        digests = {file.name: digest(file) for file in sorted(beside.iterdir())}
        (beside / _DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for file in beside.iterdir():
            flush(file)
        flush(beside)
        beside.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a folder if it exists. It is renamed first, so that a partly deleted folder never has its final name."""
    aside = _beside(path, "removing")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Finish or remove what a killed process left under temporary names in a folder.

    A folder that was completely written but not renamed yet gets its final name; everything else is removed.
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
    """Give a complete folder its final name; return whether it was one."""
    name = re.fullmatch(r"\.([\w-]+)\.writing", left.name)
    if name is None or left.is_symlink() or not left.is_dir() or os.path.lexists(left.with_name(name[1])):
        return False
    try:
        check(left)
    except DamagedError:
        return False
    left.rename(left.with_name(name[1]))
    flush(left.parent)
    return True


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it cannot be written; safetensors has an error of its own for that, which does not name the file.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"'{path}' cannot be written: {error}") from error


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
        digests = read_json(path / _DIGESTS)
        if unlisted := {file.name for file in path.iterdir() if file.name[0] != "."} - {_DIGESTS, *digests}:
            raise DamagedError(f"'{path / _DIGESTS}' has no digest of {', '.join(sorted(unlisted)[:3])}")
        for name, expected in digests.items():
            if Path(name).name != name or (path / name).is_symlink():
                raise DamagedError(f"'{path / _DIGESTS}' names {name!r}, which is not a file of this folder")
            if (path / name).stat().st_size > memory_bytes():
                raise DamagedError(f"'{path / name}' is larger than this machine's memory: no part of a checkpoint")
            if not isinstance(expected, str) or digest(path / name) != expected:
                raise DamagedError(f"'{path / name}' is not as it was written: cut off or changed")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DamagedError(f"'{path}' is damaged: {error}") from error


def folder_digest(path: Path) -> str:
    """One digest for a whole folder that :func:`writing` has written, if :func:`check` finds nothing."""
    return digest(path / _DIGESTS)


def digest(file: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first ``size`` bytes."""
    state, left = hashlib.sha256(), file.stat().st_size if size is None else size
    with file.open("rb") as stream:
        while left > 0 and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            state.update(chunk)
            left -= len(chunk)
    return state.hexdigest()


def flush_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    beside = _beside(path, "writing")
    beside.write_text(text, encoding="utf-8")
    flush(beside)
    beside.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
