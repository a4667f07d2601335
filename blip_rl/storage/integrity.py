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
from blip_rl.storage import atomic, durable
from blip_rl.untrusted.machine import memory_bytes

TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv", "speed.csv")
_FACTS = ("command.txt", "environment.json")  # written once, when the run begins
WRITTEN_FIRST = (*_FACTS, *TABLES)
"""Files that a new run folder has before its ``config.toml``."""


class ChangedError(RuntimeError):
    """Evidence is not what it was; the message names the file.

    Attributes:
        fix: What can be done about it.
    """

    def __init__(self, message: str, fix: str = "put it back, or go on with --accept-changes") -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class Mark:
    """What a file was: its length in bytes, and the digest of that many, which early versions did not keep."""

    size: int
    digest: str | None


@dataclass(frozen=True)
class Evidence:
    """What there was at a moment.

    Attributes:
        files: Tables, events and facts by name.
        stages: Digest of the digests of every stage checkpoint, by the name of its folder.
    """

    files: Mapping[str, Mark]
    stages: Mapping[str, str]


def growing(run: Path) -> list[Path]:
    """Tables and TensorBoard events that there are."""
    tables = (run / name for name in TABLES)
    return [*(path for path in tables if path.exists()), *sorted(run.glob("events.out.tfevents.*"))]


def flush(run: Path) -> None:
    """Wait until tables and events are on the disk."""
    for path in growing(run):
        durable.flush(path)


def take(run: Path, stages: Iterable[Path]) -> Evidence:
    """What there is now, once it is on the disk: a snapshot must not tell of rows that a power cut takes away.

    Args:
        run: The run folder.
        stages: Checkpoints of the stages that are behind it.
    """
    flush(run)
    facts = (path for path in (run / name for name in _FACTS) if path.exists())
    return Evidence(
        {path.name: _mark(path) for path in (*growing(run), *facts)},
        {path.name: durable.seal(path) for path in stages},
    )


def check_there(run: Path, then: Evidence) -> None:
    """Make sure that nothing is missing of what was there.

    Raises:
        ChangedError: a file is shorter than it was, or gone.
    """
    for name, mark in then.files.items():
        if name in _FACTS:
            continue
        path = run / name
        if path.name != name or path.is_symlink() or not path.is_file() or path.stat().st_size < mark.size:
            raise ChangedError(
                f"'{path}' is shorter than when the run was saved, or gone: expected {mark.size:,} bytes", "put it back"
            )


def check_same(run: Path, then: Evidence) -> None:
    """Make sure that what was there is as it was.

    Raises:
        ChangedError: a file's first part is another, or a stage checkpoint is damaged.
    """
    for name, mark in then.files.items():
        if mark.digest is not None and not _is(run / name, mark):
            raise ChangedError(f"'{run / name}' has changed since the run was saved")
    for name, seal in then.stages.items():
        path = run / "checkpoints" / name
        try:
            durable.check(path)
        except durable.DamagedError as error:
            raise ChangedError(str(error)) from error
        if durable.seal(path) != seal:
            raise ChangedError(f"'{path}' has changed since the run was saved")


def cut_back(run: Path, then: Evidence) -> None:
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


def clear(run: Path) -> None:
    """Remove all that grows.

    Raises:
        UserError: as :func:`cut_back`.
    """
    for path in _own(run):
        path.unlink()


def _own(run: Path) -> list[Path]:
    for path in growing(run):
        if path.is_symlink() or not path.is_file():
            raise UserError(f"'{path}' is a link or a folder: expected a file of the run")
    return growing(run)


def _is(path: Path, mark: Mark) -> bool:
    """Whether a file begins as it was; one that never grows is all of it."""
    try:
        size = path.stat().st_size
        if mark.size > memory_bytes() or (path.name in _FACTS and size != mark.size):
            return False  # told by its length: reading it may take hours, for a hole takes no room on a disk
        return durable.digest(path, mark.size) == mark.digest
    except OSError:
        return False


def _mark(path: Path) -> Mark:
    size = path.stat().st_size
    return Mark(size, durable.digest(path, size))
