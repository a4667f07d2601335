"""What goes wrong, by whose doing."""

import errno


class UserError(ValueError):
    """A mistake in a command, a recipe or a file: the message holds the value, the rule and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


class FinishedRunError(UserError):
    """A run that was to be resumed has nothing left to do."""


class RunError(RuntimeError):
    """A run that could not go on, through nobody's typing: the message holds the cause and what was saved.

    The command line prints it without a traceback and exits with code 1.
    """


class InterruptedRunError(RuntimeError):
    """A run that was asked to stop and did: the message says how to go on.

    The command line prints it without a traceback and exits with code 128 + signal number, as shells count.
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
    """Whether an error says that memory was not enough, by its type or by torch's and the system's words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(words in text for words in _OUT_OF_MEMORY)


def error_text(error: BaseException) -> str:
    """One message for an error, which for a lack of memory says so; torch adds many lines of its own stack."""
    if not is_out_of_memory(error) or isinstance(error, UserError | RunError):
        return str(error)
    cause = str(error).partition("\n")[0] or type(error).__name__
    return f"not enough memory (the machine's is used up, or a limit such as ulimit -v is too low): {cause}"


def did_you_mean(value: str, allowed: "list[str]") -> str:
    """Return ``": did you mean X?"`` for the closest allowed name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(value.lower(), [name.lower() for name in allowed], n=1, cutoff=0.6)
    if not close:
        return ""
    original = next(name for name in allowed if name.lower() == close[0])
    return f": did you mean {original}?"
