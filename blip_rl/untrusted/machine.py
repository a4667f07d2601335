"""Available memory, and a check before large allocations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from blip_rl.errors import TooLittleMemoryError

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NAMED_FROM = 0.05  # of the total: smaller parts are omitted from the message
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_UNKNOWN = 2**40  # where the system cannot be asked


def memory_bytes() -> int:
    """Return the bytes of memory available to this process: the minimum of RAM, cgroup limit and ``ulimit -v``."""
    found = [_UNKNOWN]
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(limit).read_text(encoding="ascii")))
    with contextlib.suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        found += [soft] if soft != resource.RLIM_INFINITY else []
    return max(1, min(found))


def check_memory(what: str, parts: Mapping[str, float], advice: str) -> None:
    """Check that something fits into memory, before it is allocated.

    Args:
        what: Name of what is to be allocated, for the message.
        parts: Name of each part → bytes.
        advice: How to reduce the memory needed.

    Raises:
        TooLittleMemoryError: It does not fit; the message gives the memory needed and its largest parts.
    """
    total, limit = sum(parts.values()), memory_bytes()
    if total <= limit:
        return
    largest = sorted(((size, name) for name, size in parts.items() if size > _NAMED_FROM * total), reverse=True)
    named = ", ".join(f"{name} {in_words(size)}" for size, name in largest)
    raise TooLittleMemoryError(
        f"{what} needs {in_words(total)} of memory ({named}), but {in_words(limit)} are available: {advice}"
    )


def in_words(size: float) -> str:
    """Format a number of bytes with a decimal unit, such as ``4.3 TB``."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:,.3g} {_UNITS[unit]}" if size < 1000 else f"{size:,.0f} {_UNITS[unit]}"
