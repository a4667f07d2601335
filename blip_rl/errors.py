"""Exceptions of the package and helpers for their messages."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing pydantic takes a third of the command line's start-up
    from pydantic import ValidationError

_LONGEST_QUOTE = 80  # characters of a wrong value in a message


class UserError(ValueError):
    """Invalid input in a command, recipe or file; the message names the value, the rule and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


class TooLittleMemoryError(UserError):
    """Something does not fit into this machine's memory."""


class FinishedRunError(UserError):
    """A run cannot be resumed because it is finished."""


class RunError(RuntimeError):
    """A run failed for another reason than invalid input; the message names the cause and what was saved.

    The command line prints it without a traceback and exits with code 1.
    """


class TakenOverError(RunError):
    """Another process has taken over the run that this process was writing; it stops and leaves the folder alone."""


class InterruptedRunError(RuntimeError):
    """A run was stopped by a signal; the message gives the command that resumes it.

    The command line prints it without a traceback and exits with code 128 + signal number, as shells do.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


_OUT_OF_MEMORY = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "failed to map segment",  # of a shared library
    "bad_alloc",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, by its type or by known texts of torch and the system."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(words in text for words in _OUT_OF_MEMORY)


# There is no file, or something else is in its place: trying again does not help.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
_NOT_READ = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def is_unread(error: BaseException | None) -> bool:
    """Return whether an error or its cause says nothing about a file's content: it was not read, or memory ran out."""
    while error is not None:
        if isinstance(error, TooLittleMemoryError) or is_out_of_memory(error):
            return True
        if isinstance(error, OSError):
            return error.errno not in _NO_FILE
        # torch opens files, too, and has the system's message in its own.
        if isinstance(error, RuntimeError) and any(os.strerror(code) in str(error) for code in _NOT_READ):
            return True
        error = error.__cause__
    return False


def error_text(error: BaseException) -> str:
    """Return the message of an error; for out-of-memory errors its first line, since torch appends its C++ stack."""
    if not is_out_of_memory(error) or isinstance(error, UserError | RunError):
        return str(error)
    cause = str(error).partition("\n")[0] or type(error).__name__
    return f"not enough memory (the machine's is used up, or a limit such as ulimit -v is too low): {cause}"


def first_problem(error: ValidationError) -> str:
    """Return the first problem of untrusted values as one line: ``tasks.0.steps = 'many': Input should be …``."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    value = "" if first["type"] == "missing" else f" = {str(first['input'])[:_LONGEST_QUOTE]!r}"
    return f"{place}{value}: {first['msg']}"


def did_you_mean(value: str, allowed: list[str]) -> str:
    """Return ``": did you mean X?"`` for the closest allowed name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(value.lower(), [name.lower() for name in allowed], n=1, cutoff=0.6)
    if not close:
        return ""
    original = next(name for name in allowed if name.lower() == close[0])
    return f": did you mean {original}?"
