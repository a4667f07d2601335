"""Records the folder states that a kill can leave: before every file event, and after half of every write.

Events come from Python's audit hooks (open, rename, unlink, mkdir, rmdir, truncate) and from functions that raise none:
writes to a file, fsync, and safetensors, which writes from Rust. A process that is killed leaves what it has handed to
the system and loses its own buffers, so a copy of the folder at that moment is what the next process finds.
"""

import builtins
import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from blip_rl.storage import checkpoint

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
DIR_FD = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.truncate": None}
"""Audit event → index of its dir_fd argument."""


@dataclass(frozen=True)
class Point:
    """A point at which a process can be killed.

    Attributes:
        kind: The event that comes next, or "half" of a write.
        name: Its file below the folder.
        state: Folder with a copy of what is there; of equal ones there is one. None: there is no folder yet.
        learned: Training steps of the updates that are finished.
    """

    kind: str
    name: str
    state: Path | None
    learned: int

    def __str__(self):
        return f"{self.kind} {self.name}"


class KillPoints:
    """Copies a folder before every file event below it.

    Attributes:
        points: In the order of the events.
        learned: What the next points will have.
    """

    def __init__(self, folder, copies):
        self._folder, self._copies, self.points, self.learned = folder, copies, [], 0
        self._turn, self._mine = threading.RLock(), threading.local()  # TensorBoard writes from a thread of its own

    @contextlib.contextmanager
    def recorded(self):
        """Record the file events within the block."""
        opening, saving, flushing = io.open, checkpoint.save_file, os.fsync
        with pytest.MonkeyPatch.context() as patch:
            for owner in (builtins, io):
                patch.setattr(owner, "open", lambda *a, **o: self._open(opening, *a, **o))
            patch.setattr(checkpoint, "save_file", lambda tensors, path: self._save(saving, tensors, path))
            patch.setattr(os, "fsync", lambda fd: (self._event("fsync", _path_of(fd)), flushing(fd))[1])
            HOOK.recorder = self
            try:
                yield self
            finally:
                HOOK.recorder = None

    def audited(self, event, arguments):
        """Handle an audit event, which Python raises before the operation."""
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & WRITING
            if writes and isinstance(path, str | bytes | Path):
                self._event("open", path)
        elif event in DIR_FD:
            place = DIR_FD[event]
            base = arguments[place] if place is not None else -1
            path = os.fsdecode(arguments[0])
            self._event(event.removeprefix("os."), path if base == -1 else str(Path(_path_of(base)) / path))

    def _event(self, kind, path, more=b"", cut=None):
        """Copy the folder if the event is inside it; append bytes to the copied file or truncate it."""
        path = str(Path(os.fsdecode(path)).absolute())
        if getattr(self._mine, "busy", False) or not f"{path}/".startswith(f"{self._folder}/"):
            return
        with self._turn:
            self._mine.busy = True
            try:
                name = re.sub(r"events\.out\.\S+", "events", os.path.relpath(path, self._folder))
                self.points.append(Point(kind, name, self._copy(path, more, cut), self.learned))
            finally:
                self._mine.busy = False

    def _copy(self, path, more, cut):
        if not self._folder.exists():
            return None
        copy = self._copies / "new"
        shutil.copytree(self._folder, copy, symlinks=True)
        if more:
            with (copy / os.path.relpath(path, self._folder)).open("ab") as file:
                file.write(more)
        if cut is not None:
            os.truncate(copy / os.path.relpath(path, self._folder), cut)
        state = self._copies / tree_digest(copy)
        shutil.rmtree(copy) if state.exists() else copy.rename(state)
        return state

    def _open(self, opening, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **options):
        if not set(mode) & set("wax") or not isinstance(file, str | Path):
            return opening(file, mode, buffering, encoding, errors, newline, **options)
        raw = _Recorded(file, re.sub("[bt]", "", mode))
        raw.written = lambda data: self._write(file, data)
        if "b" in mode:
            return io.BufferedWriter(raw)
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, newline=newline)

    def _write(self, path, data):
        self._event("write", path)
        self._event("half", path, bytes(data[: len(data) // 2]))

    def _save(self, saving, tensors, path):
        self._event("tensors", path)
        with self._turn:
            saving(tensors, path)
            size = Path(path).stat().st_size
            self._event("half", path, cut=size // 2)


class _Recorded(io.FileIO):
    def write(self, data):
        self.written(memoryview(data).cast("B"))
        return super().write(data)


class _Hook:
    """The process's audit hook, which cannot be removed: it does nothing while no recorder is set."""

    recorder = None
    installed = False

    def __setattr__(self, name, value):
        if value is not None and not _Hook.installed:
            _Hook.installed = True
            sys.addaudithook(lambda event, arguments: self.recorder and self.recorder.audited(event, arguments))
        super().__setattr__(name, value)


HOOK = _Hook()


def tree_digest(folder):
    """Return a digest of the names and contents of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0{path.is_file()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return found.hexdigest()[:24]


def _path_of(descriptor):
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
