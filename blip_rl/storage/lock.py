"""Exclusive locks between processes, with ``flock``, and with an owner who can lose the lock while suspended.

``flock`` alone is not enough on a cluster. A machine that is frozen keeps its lock, so that no other process could
continue its run, and not every network file system shares these locks between machines. So the file also says who owns
it: host, process, a random token, and a generation that is incremented by everyone who takes the lock over. An owner
compares the file with what it wrote (:meth:`HeldLock.check`) directly before each change of the run, and stops if they
differ.

The package filelock is not used: it truncates the lock file and follows symbolic links, which is unsafe in a run folder
from an untrusted source.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from blip_rl.errors import TakenOverError

_POLL_SECONDS = 0.02
_MOST_BYTES = 1_000  # of a lock file, which may be untrusted
_NOT_READ = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


@dataclass(frozen=True)
class Owner:
    """Who owns a lock, as written in its file; the file is empty while the lock is free.

    Attributes:
        host: Name of the machine.
        pid: Process number on that machine.
        generation: 1, and 1 more each time the lock is taken from an owner who has not released it.
        token: Random text that no other owner has.
    """

    host: str
    pid: int
    generation: int
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class HeldLock:
    """A lock that this process holds.

    Attributes:
        from_another: Whether the previous owner has not released the lock and may still be alive: it is on another
            machine, or the lock was taken over. It may be suspended in the middle of a write.
    """

    def __init__(self, path: Path, content: bytes, from_another: bool) -> None:
        self._path, self._content = path, content
        self.from_another = from_another

    def check(self) -> None:
        """Check that no other process has taken the lock over; takes microseconds on a local disk.

        Raises:
            TakenOverError: One has, or the lock file was removed.
            OSError: The file cannot be read just now, as with too many open files.
        """
        if not self.is_held():
            owner = read_owner(self._path)
            raise TakenOverError(
                f"'{self._path.parent}' was taken over by {owner or 'another process'}, so this process stops; it has "
                "written nothing to the folder since then"
            )

    def is_held(self) -> bool:
        """Return whether no other process has taken the lock over.

        Raises:
            OSError: as :meth:`check`.
        """
        # Opened by name each time: a lock is taken over by another file of that name, and network file systems compare
        # what they have cached with the server when a file is opened.
        return _content(self._path) == self._content


def read_owner(path: Path) -> Owner | None:
    """Return the owner of a lock; None if it is free, or the file is missing or not readable as one."""
    try:
        owner = _owner(_content(path))
    except OSError:
        return None
    return owner if owner and owner.host else None


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


def known_state(path: Path) -> Literal["held", "free", "unknown"]:
    """Return whether a process holds a lock, as far as this machine can tell; the file is not created.

    ``free`` if the last owner has released it, or was a process of this machine, whose locks end with it. ``unknown``
    if the owner is on another machine, whose locks not every network file system shows, or if there is no lock file.
    """
    # Read before the lock is tried: an owner that is named later has locked the file by then.
    try:
        content = _content(path)
    except OSError:
        return "unknown"
    if is_locked(path):
        return "held"
    try:
        found = path.lstat()
    except OSError:
        return "unknown"
    released = stat.S_ISREG(found.st_mode) and found.st_size == 0
    owner = _owner(content)
    ended = owner is not None and owner.host == socket.gethostname()
    return "free" if released or ended else "unknown"


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0, *, take_over: bool = False) -> Iterator[HeldLock]:
    """Hold an exclusive lock on a file within the block. The file is created if missing, and says who holds it.

    Args:
        path: The lock file. It is never removed: two processes could otherwise lock two different files of that name.
        wait_seconds: How long to wait for another process.
        take_over: Whether to take the lock from a process that still holds it then, because it is known to be
            suspended, or its machine to be lost.

    Raises:
        TimeoutError: Another process holds the lock.
        OSError: The file cannot be written, is a symbolic link or not a regular file; or the file system does not
            support locks.
    """
    deadline, replaced = time.monotonic() + wait_seconds, False
    while True:
        descriptor = _open(path)
        try:
            if try_lock(descriptor):
                if _is_ours_alone(path, descriptor):
                    with _owned(path, descriptor) as held:
                        yield held
                    return
            elif time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            elif take_over and not replaced:
                _replace(path, descriptor)
                replaced = True
            else:
                owner = read_owner(path)
                raise TimeoutError(f"'{path}' is locked by another process{f': {owner}' if owner else ''}")
        finally:
            os.close(descriptor)


@contextmanager
def _owned(path: Path, descriptor: int) -> Iterator[HeldLock]:
    """Write this process into a file that it has locked; empty the file after the block."""
    old = os.pread(descriptor, _MOST_BYTES, 0)
    before, host = _owner(old), socket.gethostname()
    owner = Owner(host, os.getpid(), before.generation + 1 if before else 1, secrets.token_hex(8))
    content = json.dumps(asdict(owner)).encode() + b"\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    held = HeldLock(path, content, bool(old) and (before is None or before.host != host))
    try:
        yield held
    except Exception:
        with suppress(OSError):  # the lock is not known to be lost
            if path.exists():  # otherwise this process has removed the folder
                held.check()  # the error, such as a file that is gone, follows from the loss of the lock
        raise
    finally:
        with suppress(OSError):  # the file then still names this process, which has ended
            if held.is_held():
                os.ftruncate(descriptor, 0)


def _replace(path: Path, descriptor: int) -> None:
    """Replace the locked file of another process by a new one that is unlocked and names no host."""
    before = _owner(os.pread(descriptor, _MOST_BYTES, 0))
    nobody = Owner("", 0, before.generation if before else 0, "")
    beside = path.with_name(f".blip-rl-{secrets.token_hex(8)}.tmp")  # a name that atomic.recover removes after a kill
    new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try_lock(new)  # while it has this name, so that no other process removes it
        os.pwrite(new, json.dumps(asdict(nobody)).encode(), 0)
        beside.rename(path)
    finally:
        os.close(new)


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


def _content(path: Path) -> bytes:
    """Return the content of a lock file; nothing if it is not there, not readable, or no file.

    Raises:
        OSError: This process or machine could not read it just now, so nobody else has changed it for that reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, _MOST_BYTES, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:  # ESTALE on a network file system: another machine has replaced the file
        if error.errno in _NOT_READ:
            raise
        return b""


def _owner(content: bytes) -> Owner | None:
    """Parse the content of a lock file; None if it names no owner."""
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError, RecursionError):  # the file may be untrusted
        return None
    texts = isinstance(owner.host, str) and isinstance(owner.token, str)
    numbers = isinstance(owner.pid, int) and isinstance(owner.generation, int)
    return owner if texts and numbers else None
