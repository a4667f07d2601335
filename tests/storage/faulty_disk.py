"""Fault injection: counts all write operations below a folder and makes a chosen one fail."""

import builtins
import contextlib
import errno
import io
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from blip_rl.storage import checkpoint

FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class HalfWritten(io.FileIO):
    """A file that accepts half of the first write and then raises, as on a full disk."""

    full = False

    def write(self, data):
        if self.full:
            raise FULL
        self.full = True
        taken = memoryview(data).cast("B")[: len(data) // 2]
        return super().write(taken) if len(taken) else self.write(data)


class FaultyDisk:
    """Writes below a folder.

    Attributes:
        writes: How often each was seen: (kind, name below the folder).
        failed: Whether the chosen one has been met.
    """

    def __init__(self, folder, chosen=None, call=1, fault="refused"):
        """Choose what fails.

        Args:
            folder: Writes elsewhere are left alone.
            chosen: (kind, name) of the write that fails; None only counts.
            call: Which of them.
            fault: "refused" does nothing of it, "short" does half of it, "full" refuses it and every one after it.
        """
        self._folder, self._chosen, self._call, self._fault = str(folder), chosen, call, fault
        self.writes, self.failed = Counter(), False

    def fails(self, kind, path):
        """Count a write; return whether and how it fails."""
        name = self._name(path)
        if name is None:
            return None
        self.writes[kind, name] += 1
        if self.failed:
            return "refused" if self._fault == "full" else None
        if (kind, name) != self._chosen or self.writes[kind, name] != self._call:
            return None
        self.failed = True
        return "refused" if self._fault == "full" else self._fault

    def _name(self, path):
        text = os.fsdecode(path) if isinstance(path, str | bytes | Path) else ""
        if not text.startswith(self._folder):
            return None
        name = re.sub(r"events\.out\.\S+", "events", text[len(self._folder) :].lstrip("/")) or "."
        return re.sub(r"\.blip-rl-[0-9a-f]{16}", ".blip-rl", name)

    @contextlib.contextmanager
    def in_use(self):
        """Patch the system calls within the block."""
        with pytest.MonkeyPatch.context() as patch:
            opening = self._opening(open)
            for owner in (builtins, io):
                patch.setattr(owner, "open", opening)
            patch.setattr(os, "open", self._opening_descriptor(os.open))
            for name in ("rename", "replace", "mkdir", "truncate", "unlink"):
                patch.setattr(os, name, self._calling(name, getattr(os, name)))
            patch.setattr(os, "fsync", self._flushing(os.fsync))
            patch.setattr(checkpoint, "save_file", self._saving(checkpoint.save_file))
            yield self

    def _opening(self, work):
        def opened(file, mode="r", *args, **options):
            fault = self.fails("write", file) if set(mode) & set("wax+") else None
            if fault == "refused":
                raise FULL
            if fault != "short":
                return work(file, mode, *args, **options)
            raw = HalfWritten(file, mode.replace("b", "").replace("t", ""))
            if "b" in mode:
                return io.BufferedWriter(raw)
            kept = {name: options[name] for name in ("encoding", "newline") if name in options}
            return io.TextIOWrapper(io.BufferedWriter(raw), **kept)

        return opened

    def _opening_descriptor(self, work):
        def opened(path, flags, *args, **options):
            if flags & WRITING and self.fails("create", path):
                raise FULL
            return work(path, flags, *args, **options)

        return opened

    def _calling(self, kind, work):
        def called(path, *args, **options):
            if self.fails(kind, path):
                raise BROKEN
            return work(path, *args, **options)

        return called

    def _flushing(self, work):
        def flushed(descriptor):
            if self.fails("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())):
                raise BROKEN
            return work(descriptor)

        return flushed

    def _saving(self, work):
        def saved(tensors, path):
            fault = self.fails("tensors", path)
            if fault == "short":
                work(tensors, path)
                os.truncate(path, Path(path).stat().st_size // 2)
            if fault:
                raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")
            return work(tensors, path)

        return saved
