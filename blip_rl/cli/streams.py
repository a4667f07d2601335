"""Standard streams that are closed, on a full disk or without a reader: no traceback, and the right exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

_NAMES = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Open ``/dev/null`` in place of standard streams that are closed, as after ``>&-``.

    Otherwise Python has None for them, and the next file that is opened gets the number of a standard stream: what a
    library prints goes into that file. Child processes inherit what is opened here.
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
    """Print to stderr if it can be written; the exit code says the rest."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def flush_streams() -> OSError | None:
    """Flush stdout and stderr at the end of the program.

    A stream that cannot be written is pointed at ``/dev/null``: the interpreter flushes once more, and would print an
    error and exit with code 120.

    Returns:
        Why stdout could not be written; None if all of it was.
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
