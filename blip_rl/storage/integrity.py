"""Sizes and digests of a run's files at the time of a snapshot.

Tables and TensorBoard event files are append-only: a resume truncates them to their size at the snapshot, and checks
that their content up to there, and the checkpoints of earlier stages, are unchanged. A changed table, which may be
accepted, is truncated to its number of rows instead: a program that saved it again may have changed the line ends.
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
from blip_rl.untrusted.tables import MOST_BYTES

TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv", "speed.csv")
_LONGEST_LINE = 1_000_000  # bytes
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
    """Size of a file in bytes and SHA-256 digest of that many bytes.

    Attributes:
        rows: Of a table, lines with the header; None in snapshots of earlier versions.
    """

    size: Annotated[int, Field(strict=True, ge=0)]
    digest: str
    rows: Annotated[int, Field(strict=True, ge=0)] | None = None


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
        if path.name != name or path.is_symlink() or not path.is_file() or _is_shorter(path, saved):
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


def check_rows(run: Path, then: RunFiles) -> None:
    """Check that the tables that have changed can be cut back to their rows at the snapshot.

    Raises:
        ChangedError: The snapshot does not say how many rows a changed table had, or some are missing.
    """
    for name, saved in then.files.items():
        _kept_bytes(run / name, saved)


def truncate(run: Path, then: RunFiles, check: Check = unlocked) -> None:
    """Truncate event files and tables to their saved sizes, changed tables to their rows; remove files created since.

    A truncated file is a copy under the same name. Its other names (hard links, ``cp -al``) keep the old content, and a
    process that has opened it, is suspended and continues later writes into the old file.

    Args:
        run: The run folder.
        then: Its files at the time of the snapshot.
        check: Raises if another process has taken the run over; nothing is changed then.

    Raises:
        UserError: A link or folder has the name of a run file; nothing is changed then.
        ChangedError: As :func:`check_rows`; nothing is changed then.
    """
    kept = {path: _kept_bytes(path, then.files[path.name]) for path in _own(run) if path.name in then.files}
    for path in _own(run):
        if path in kept:
            atomic.separate(path, kept[path], check)
        else:
            atomic.remove(path, check)


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


def _is_shorter(path: Path, saved: FileDigest) -> bool:
    """Return whether bytes are missing; of a table that may have been saved again, whether rows are."""
    if path.stat().st_size >= saved.size:
        return False
    return saved.rows is None or _end_of_row(path, saved.rows) is None


def _kept_bytes(path: Path, saved: FileDigest) -> int:
    """Return the size to which a file is cut back.

    Raises:
        ChangedError: As :func:`check_rows`.
    """
    if path.name not in TABLES or _is_unchanged(path, saved):
        return saved.size
    if saved.rows is None:
        raise ChangedError(
            f"'{path}' has changed since the run was saved by an earlier version, which did not note its rows",
            "restore it",
        )
    end = _end_of_row(path, saved.rows)
    if end is None:
        raise ChangedError(f"'{path}' has lost rows: expected at least {saved.rows:,} complete lines", "restore it")
    return end


def _end_of_row(path: Path, rows: int) -> int | None:
    """Return the number of bytes up to the end of a row; None if the table has fewer. Blank lines are no rows."""
    if path.stat().st_size > MOST_BYTES:
        return None
    end = 0
    with path.open("rb") as file:
        while rows > 0 and (line := file.readline(_LONGEST_LINE)):
            end += len(line)
            rows -= line.endswith(b"\n") and bool(line.strip())
    return None if rows else end


def _rows(path: Path, size: int) -> int:
    """Return the number of rows in the first bytes of a table, counted as :func:`_end_of_row` does."""
    rows, left = 0, size
    with path.open("rb") as file:
        while left > 0 and (line := file.readline(min(_LONGEST_LINE, left))):
            left -= len(line)
            rows += line.endswith(b"\n") and bool(line.strip())
    return rows


def _file_digest(path: Path) -> FileDigest:
    size = path.stat().st_size
    return FileDigest(size, atomic.file_digest(path, size), _rows(path, size) if path.name in TABLES else None)
