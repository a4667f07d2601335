"""Sizes and digests of a run's files at the time of a snapshot.

Tables and TensorBoard event files are append-only: a resume truncates them to their size at the snapshot, and checks
that their content up to there, and the checkpoints of earlier stages, are unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from blip_rl.errors import UserError, is_unread
from blip_rl.storage import atomic
from blip_rl.storage.atomic import Check, unlocked
from blip_rl.untrusted.machine import memory_bytes

TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv", "speed.csv")
_METADATA = ("command.txt", "environment.json")  # written once, when the run begins
WRITTEN_FIRST = (*_METADATA, *TABLES)
"""Files that a new run folder has before its ``config.toml``."""


class ChangedError(RuntimeError):
    """A file of the run has changed since the snapshot; the message names it.

    Attributes:
        fix: Advice for the user.
    """

    def __init__(self, message: str, fix: str = "restore it, or resume with --accept-changes") -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class FileDigest:
    """Size of a file in bytes and SHA-256 digest of that many bytes."""

    size: Annotated[int, Field(strict=True, ge=0)]
    digest: str


@dataclass(frozen=True)
class RunFiles:
    """Files of a run at the time of a snapshot.

    Attributes:
        files: Size and digest of tables, event files and metadata files, by file name.
        stages: Folder digest of every earlier stage checkpoint, by folder name.
    """

    files: Mapping[str, FileDigest]
    stages: Mapping[Annotated[str, Field(pattern=r"^stage-[0-9]+$")], str]


def growing_files(run: Path) -> list[Path]:
    """Return the tables and TensorBoard event files that exist."""
    tables = (run / name for name in TABLES)
    return [*(path for path in tables if path.exists()), *sorted(run.glob("events.out.tfevents.*"))]


def flush(run: Path) -> None:
    """Flush tables and event files to the disk."""
    for path in growing_files(run):
        atomic.flush(path)


def digest_files(run: Path, stages: Iterable[Path]) -> RunFiles:
    """Flush the run's files, then return their sizes and digests.

    Flushed first because a snapshot must not refer to rows that a power failure could still lose.

    Args:
        run: The run folder.
        stages: Checkpoint folders of completed stages.
    """
    flush(run)
    metadata = (path for path in (run / name for name in _METADATA) if path.exists())
    return RunFiles(
        {path.name: _file_digest(path) for path in (*growing_files(run), *metadata)},
        {path.name: atomic.folder_digest(path) for path in stages},
    )


def check_complete(run: Path, then: RunFiles) -> None:
    """Check that no table or event file is missing or shorter than at the snapshot.

    Raises:
        ChangedError: One is; ``--accept-changes`` does not help, because rows are lost.
    """
    for name, saved in then.files.items():
        if name in _METADATA:
            continue
        path = run / name
        if path.name != name or path.is_symlink() or not path.is_file() or path.stat().st_size < saved.size:
            raise ChangedError(
                f"'{path}' is missing or shorter than when the run was saved: expected {saved.size:,} bytes",
                "restore it",
            )


def check_unchanged(run: Path, then: RunFiles) -> None:
    """Check that the content of the run's files up to the snapshot is unchanged.

    Raises:
        ChangedError: A file differs within its saved size, or a stage checkpoint is damaged or another one.
        UserError, OSError: A file could not be read.
    """
    for name, saved in then.files.items():
        if not _is_unchanged(run / name, saved):
            raise ChangedError(f"'{run / name}' has changed since the run was saved")
    for name, expected in then.stages.items():
        path = run / "checkpoints" / name
        try:
            atomic.check_folder(path)
        except atomic.DamagedError as error:
            raise ChangedError(str(error)) from error
        if atomic.folder_digest(path) != expected:
            raise ChangedError(f"'{path}' has changed since the run was saved")


def truncate(run: Path, then: RunFiles, check: Check = unlocked) -> None:
    """Truncate tables and event files to their saved sizes; remove files created since.

    A truncated file is a copy under the same name. Its other names (hard links, ``cp -al``) keep the old content, and a
    process that has opened it, is suspended and continues later writes into the old file.

    Args:
        run: The run folder.
        then: Its files at the time of the snapshot.
        check: Raises if another process has taken the run over; nothing is changed then.

    Raises:
        UserError: A link or folder has the name of a run file; nothing is changed then.
    """
    for path in _own(run):
        if path.name not in then.files:
            atomic.remove(path, check)
        else:
            atomic.separate(path, then.files[path.name].size, check)


def remove_growing(run: Path, check: Check = unlocked) -> None:
    """Remove all tables and event files.

    Args:
        run: The run folder.
        check: As for :func:`truncate`.

    Raises:
        UserError: as :func:`truncate`.
    """
    for path in _own(run):
        atomic.remove(path, check)


def _own(run: Path) -> list[Path]:
    for path in growing_files(run):
        if path.is_symlink() or not path.is_file():
            raise UserError(f"'{path}' is a link or a folder: expected a file of the run")
    return growing_files(run)


def _is_unchanged(path: Path, saved: FileDigest) -> bool:
    """Return whether the first bytes of a file match its saved digest; for metadata files, the whole file."""
    try:
        size = path.stat().st_size
        if saved.size > memory_bytes() or (path.name in _METADATA and size != saved.size):
            return False  # do not hash: a huge sparse file would take hours
        return atomic.file_digest(path, saved.size) == saved.digest
    except OSError as error:
        if is_unread(error):
            raise
        return False


def _file_digest(path: Path) -> FileDigest:
    size = path.stat().st_size
    return FileDigest(size, atomic.file_digest(path, size))
