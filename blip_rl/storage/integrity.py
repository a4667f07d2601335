"""A run's evidence and what it was at a moment.

Tables and TensorBoard events only ever grow: what was written after the moment can be cut off, and what was written
before it must still be the same, as must the checkpoints of earlier stages.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blip_rl.errors import UserError
from blip_rl.storage import atomic
from blip_rl.untrusted.machine import memory_bytes

TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv", "speed.csv")
_METADATA = ("command.txt", "environment.json")  # written once, when the run begins
WRITTEN_FIRST = (*_METADATA, *TABLES)
"""Files that a new run folder has before its ``config.toml``."""


class ChangedError(RuntimeError):
    """RunFiles is not what it was; the message names the file.

    Attributes:
        fix: What can be done about it.
    """

    def __init__(self, message: str, fix: str = "put it back, or go on with --accept-changes") -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class FileDigest:
    """What a file was: its length in bytes, and the digest of that many, which early versions did not keep."""

    size: int
    digest: str | None


@dataclass(frozen=True)
class RunFiles:
    """What there was at a moment.

    Attributes:
        files: Tables, events and facts by name.
        stages: Digest of the digests of every stage checkpoint, by the name of its folder.
    """

    files: Mapping[str, FileDigest]
    stages: Mapping[str, str]


def growing_files(run: Path) -> list[Path]:
    """Tables and TensorBoard events that there are."""
    tables = (run / name for name in TABLES)
    return [*(path for path in tables if path.exists()), *sorted(run.glob("events.out.tfevents.*"))]


def flush(run: Path) -> None:
    """Wait until tables and events are on the disk."""
    for path in growing_files(run):
        atomic.flush(path)


def digest_files(run: Path, stages: Iterable[Path]) -> RunFiles:
    """What there is now, once it is on the disk: a snapshot must not tell of rows that a power cut takes away.

    Args:
        run: The run folder.
        stages: Checkpoints of the stages that are behind it.
    """
    flush(run)
    metadata = (path for path in (run / name for name in _METADATA) if path.exists())
    return RunFiles(
        {path.name: _file_digest(path) for path in (*growing_files(run), *metadata)},
        {path.name: atomic.folder_digest(path) for path in stages},
    )


def check_complete(run: Path, then: RunFiles) -> None:
    """Make sure that nothing is missing of what was there.

    Raises:
        ChangedError: a file is shorter than it was, or gone.
    """
    for name, saved in then.files.items():
        if name in _METADATA:
            continue
        path = run / name
        if path.name != name or path.is_symlink() or not path.is_file() or path.stat().st_size < saved.size:
            raise ChangedError(
                f"'{path}' is shorter than when the run was saved, or gone: expected {saved.size:,} bytes",
                "put it back",
            )


def check_unchanged(run: Path, then: RunFiles) -> None:
    """Make sure that what was there is as it was.

    Raises:
        ChangedError: a file's first part is another, or a stage checkpoint is damaged.
    """
    for name, saved in then.files.items():
        if saved.digest is not None and not _is_unchanged(run / name, saved):
            raise ChangedError(f"'{run / name}' has changed since the run was saved")
    for name, expected in then.stages.items():
        path = run / "checkpoints" / name
        try:
            atomic.check_folder(path)
        except atomic.DamagedError as error:
            raise ChangedError(str(error)) from error
        if atomic.folder_digest(path) != expected:
            raise ChangedError(f"'{path}' has changed since the run was saved")


def truncate(run: Path, then: RunFiles) -> None:
    """Remove what was written after a moment: rows, events, whole files of events.

    Raises:
        UserError: something that is no file of the run has the name of one; nothing has been removed then.
    """
    for path in _own(run):
        if path.name not in then.files:
            path.unlink()
        elif path.stat().st_nlink > 1:  # a copy made of hard links (cp -al) shares the file with its original
            atomic.separate(path, then.files[path.name].size)
        else:
            os.truncate(path, then.files[path.name].size)


def remove_growing(run: Path) -> None:
    """Remove all that grows.

    Raises:
        UserError: as :func:`truncate`.
    """
    for path in _own(run):
        path.unlink()


def _own(run: Path) -> list[Path]:
    for path in growing_files(run):
        if path.is_symlink() or not path.is_file():
            raise UserError(f"'{path}' is a link or a folder: expected a file of the run")
    return growing_files(run)


def _is_unchanged(path: Path, saved: FileDigest) -> bool:
    """Whether a file begins as it was; one that never grows is all of it."""
    try:
        size = path.stat().st_size
        if saved.size > memory_bytes() or (path.name in _METADATA and size != saved.size):
            return False  # told by its length: reading it may take hours, for a hole takes no room on a disk
        return atomic.file_digest(path, saved.size) == saved.digest
    except OSError:
        return False


def _file_digest(path: Path) -> FileDigest:
    size = path.stat().st_size
    return FileDigest(size, atomic.file_digest(path, size))
