"""File events of this process below a folder: recorded as points at which it can be killed, or made to fail.

Events come from Python's audit hooks (open, rename, remove, mkdir, rmdir, truncate), which are called before the
operation and prevent it if they raise, and from functions without such a hook: writes to a file, fsync, and
safetensors, which writes from Rust.
"""

import builtins
import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from blip_rl.storage import checkpoint

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
DIR_FD = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.truncate": None}
"""Audit event → index of its dir_fd argument."""
FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


class FileEvents:
    """Calls :meth:`before` before each file event below a folder."""

    hooked = None  # the object whose events are observed
    installed = False  # an audit hook cannot be removed

    def __init__(self, folder):
        self.folder = Path(folder)
        self._turn, self._thread = threading.RLock(), threading.local()  # TensorBoard writes from a thread of its own

    def before(self, kind, name, data=b""):
        """Handle an event.

        Args:
            kind: "open", "write", "tensors", "fsync", "rename", "remove", "mkdir", "rmdir" or "truncate".
            name: The file below the folder.
            data: What is about to be written.

        Returns:
            Whether only half of the data is written, and an error raised then.
        """
        raise NotImplementedError

    def tensors_written(self, name):
        """Called after a file of tensors has been written."""

    @contextlib.contextmanager
    def observed(self):
        """Observe the events within the block."""
        if not FileEvents.installed:
            FileEvents.installed = True
            sys.addaudithook(
                lambda event, arguments: FileEvents.hooked and FileEvents.hooked._audited(event, arguments)
            )
        opening, saving, flushing = io.open, checkpoint.save_file, os.fsync
        with pytest.MonkeyPatch.context() as patch:
            for owner in (builtins, io):
                patch.setattr(owner, "open", lambda *a, **o: self._open(opening, *a, **o))
            patch.setattr(checkpoint, "save_file", lambda tensors, path: self._save(saving, tensors, path))
            patch.setattr(os, "fsync", lambda fd: (self._event("fsync", _path_of(fd)), flushing(fd))[1])
            patch.setattr(FileEvents, "hooked", self)
            yield self

    def _audited(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & WRITING
            if writes and isinstance(path, str | bytes | Path):
                self._event("open", path)
        elif event in DIR_FD:
            index = DIR_FD[event]
            base = arguments[index] if index is not None else -1
            path = _path_of(arguments[0]) if isinstance(arguments[0], int) else os.fsdecode(arguments[0])
            self._event(event.removeprefix("os."), path if base == -1 else Path(_path_of(base), path))

    def _event(self, kind, path, data=b""):
        path = str(Path(os.fsdecode(path)).absolute())
        if getattr(self._thread, "busy", False) or not f"{path}/".startswith(f"{self.folder}/"):
            return False
        with self._turn:
            self._thread.busy = True  # what the handler itself does is no event
            try:
                return self.before(kind, os.path.relpath(path, self.folder), data)
            finally:
                self._thread.busy = False

    def _open(self, opening, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **options):
        if not set(mode) & set("wax") or not isinstance(file, str | Path):
            return opening(file, mode, buffering, encoding, errors, newline, **options)
        raw = _ObservedFile(file, re.sub("[bt]", "", mode))
        raw.before_write = lambda data: self._event("write", file, data)
        if "b" in mode:
            return io.BufferedWriter(raw)
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, newline=newline)

    def _save(self, saving, tensors, path):
        try:
            short = self._event("tensors", path)
            with self._turn:
                saving(tensors, path)
                self.tensors_written(os.path.relpath(path, self.folder))
            if short:
                os.truncate(path, Path(path).stat().st_size // 2)
                raise FULL
        except OSError as error:
            raise checkpoint.SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error


class _ObservedFile(io.FileIO):
    full = False

    def write(self, data):
        data = memoryview(data).cast("B")
        if self.full:
            raise FULL
        self.full = self.before_write(data)
        return super().write(data[: -(-len(data) // 2)] if self.full else data)


@dataclass(frozen=True)
class KillPoint:
    """A point at which a process can be killed.

    Attributes:
        event: Kind and name of the event that comes next.
        state: Copy of the folder at that point; equal states share one. None: there is no folder yet.
        learned: Training steps of the updates that are finished.
    """

    event: str
    state: Path | None
    learned: int


class KillPoints(FileEvents):
    """Copies the folder before every event, and with half of every write done.

    A process that is killed leaves what it has handed to the system and loses its own buffers, so such a copy is what
    the next process finds.

    Attributes:
        points: In the order of the events.
        learned: ``learned`` of the next points.
    """

    def __init__(self, folder, copies):
        super().__init__(folder)
        self._copies, self.points, self.learned = copies, [], 0

    def before(self, kind, name, data=b""):
        """Copy the folder."""
        self._add(f"{kind} {name}")
        if kind == "write":
            self._add(f"half {name}", lambda copy: _append(copy / name, bytes(data[: len(data) // 2])))
        return False

    def tensors_written(self, name):
        """Copy the folder with half of the file."""
        size = (self.folder / name).stat().st_size
        self._add(f"half {name}", lambda copy: os.truncate(copy / name, size // 2))

    def _add(self, event, change=lambda copy: None):
        state = None
        if self.folder.exists():
            copy = shutil.copytree(self.folder, self._copies / "new", symlinks=True)
            change(copy)
            state = self._copies / tree_digest(copy)
            shutil.rmtree(copy) if state.exists() else copy.rename(state)
        self.points.append(KillPoint(event, state, self.learned))


class FailingEvents(FileEvents):
    """Counts the events, and makes one of them fail.

    Attributes:
        seen: (kind, name) → how often.
        failed: Whether the chosen one has been met.
    """

    def __init__(self, folder, chosen=None, call=1, fault="refused"):
        """Choose what fails.

        Args:
            folder: Events elsewhere are left alone.
            chosen: (kind, name) of the event that fails; None only counts.
            call: Which of them.
            fault: "refused" prevents it, "short" writes half, "full" prevents it and every later write.
        """
        super().__init__(folder)
        self._chosen, self._call, self._fault = chosen, call, fault
        self.seen, self.failed = Counter(), False

    def before(self, kind, name, data=b""):
        """Count, and fail if it is the chosen one."""
        name = re.sub(r"events\.out\.\S+", "events", name)
        event = kind, re.sub(r"\.blip-rl-[0-9a-f]{16}", ".blip-rl", name)
        self.seen[event] += 1
        met = not self.failed and event == self._chosen and self.seen[event] == self._call
        self.failed |= met
        if met and self._fault == "short":
            return True
        if met or (self.failed and self._fault == "full" and kind not in ("remove", "rmdir", "truncate")):
            raise FULL if kind in ("open", "write", "tensors", "mkdir") else BROKEN
        return False


def tree_digest(folder):
    """Return a digest of the names and contents of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0{path.is_file()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return found.hexdigest()[:24]


def _append(path, data):
    with path.open("ab") as file:
        file.write(data)


def _path_of(descriptor):
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
