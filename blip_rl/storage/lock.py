"""Exclusive locks between processes, with ``flock``.

The package filelock is not used: it truncates the file it locks and follows links to it, and a run folder may come from
a stranger.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.02


def try_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file; closing it, or the end of the process, unlocks it.

    Returns:
        Whether it is locked now; it is not if another process holds the lock and ``wait`` is false.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file within the block. The file is created if it is missing, and never read or written.

    Args:
        path: The lock file. It is kept, because removing it could let two processes lock two files of one name.
        wait_seconds: How long to wait for another process.

    Raises:
        TimeoutError: another process holds the lock.
        OSError: the file cannot be opened for writing, is a link, or is not a regular file; or the file system has no
            locks.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        descriptor = _open(path)
        try:
            if not try_lock(descriptor):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"'{path}' is locked by another process")
                time.sleep(_POLL_SECONDS)
            elif _is_ours_alone(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"'{path}' is not a regular file: remove it")
    return descriptor


def _is_ours_alone(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has the path's name, and no other.

    A copy made of hard links (``cp -al``) shares its lock with the original: it gets one of its own.
    """
    mine = os.fstat(descriptor)
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
        return False
    if mine.st_nlink > 1:
        path.unlink()
        return False
    return True
