"""Exclusive locks between processes, with ``flock``.

The package filelock is not used: it truncates the lock file and follows symbolic links, which is unsafe in a run folder
from an untrusted source.
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
    """Lock an open file; the lock is released when it is closed or the process ends.

    Returns:
        Whether the lock was acquired; False if another process holds it and ``wait`` is false.

    Raises:
        OSError: The file system does not support locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file; the file is not created.

    ``flock`` cannot be queried, so a shared lock is held for a moment: processes that take the lock have to wait at
    least that long (:meth:`blip_rl.storage.run_folder.RunFolder.locked` does).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system does not support locks
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file within the block. The file is created if missing, and never read or written.

    Args:
        path: The lock file. It is never removed: two processes could otherwise lock two different files of that name.
        wait_seconds: How long to wait for another process.

    Raises:
        TimeoutError: Another process holds the lock.
        OSError: The file cannot be opened for writing, is a symbolic link or not a regular file; or the file system
            does not support locks.
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
    """Return whether the locked file is still the one at ``path`` and has no other hard link.

    A hard-linked copy of a run (``cp -al``) would share its lock with the original, so its link is removed and the
    caller creates a new lock file.
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
