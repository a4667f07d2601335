"""Handle standard streams that are closed or cannot be written: no traceback and a correct exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

_NAMES = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Open ``/dev/null`` for standard streams that are closed, as after ``>&-``.

    Otherwise Python sets them to None, and the next opened file gets the descriptor of a standard stream, so output of
    C libraries would end up in that file. Child processes inherit the descriptors.
    """
    for number in range(len(_NAMES)):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(null, True)
            else:
                os.dup2(null, number)
                os.close(null)
    for name in _NAMES:
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  open until the end


def print_error(text: str) -> None:
    """Print to stderr; do nothing if it cannot be written."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def flush_streams() -> OSError | None:
    """Flush stdout and stderr at exit.

    A stream that cannot be written is redirected to ``/dev/null``: otherwise the interpreter's own flush at exit would
    print an error and set exit code 120.

    Returns:
        The error of writing stdout; None if it was flushed.
    """
    problem = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout:
                problem = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
    return problem
