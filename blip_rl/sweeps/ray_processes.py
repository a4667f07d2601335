"""End the processes that a cluster leaves running: Ray's workers detect the loss of their node late."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SECONDS = 5.0  # for workers to end by themselves


@contextmanager
def ending_processes() -> Iterator[None]:
    """Wait after the block until the processes have ended that descended from this one before; kill the last.

    Does nothing where there is no ``/proc``.
    """
    # Descriptors instead of numbers: a number may be another process's by then.
    descriptors = list(_opened(_descendants(os.getpid())))
    try:
        yield
        left = _left(descriptors, _SECONDS)
        for descriptor in left:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _left(left, _SECONDS)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _descendants(process: int) -> set[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            # Number, (name), state, parent; the name may contain anything.
            parents[int(status.parent.name)] = int(status.read_text(errors="replace").rpartition(")")[2].split()[1])
    found, new = set[int](), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _opened(processes: set[int]) -> Iterator[int]:
    for process in processes:
        with suppress(OSError):
            yield os.pidfd_open(process)


def _left(descriptors: list[int], seconds: float) -> list[int]:
    """Wait for processes to end; return those that have not."""
    poll = select.poll()
    left = set(descriptors)
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + seconds
    while left and (remaining := end - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(remaining * 1000):
            poll.unregister(descriptor)
            left.discard(descriptor)
    return list(left)
