"""Quoting of commands shown to the user for copying into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path


def shell_command(*words: str | Path) -> str:
    """Return a command line that a POSIX shell splits into exactly these words.

    Args:
        words: The program and its arguments. A ``Path`` that begins with a hyphen gets ``./`` in front, because the
            program would take it for an option.
    """
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )
