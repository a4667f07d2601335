"""What goes wrong, by whose doing."""


class UserError(ValueError):
    """A mistake in a command, a recipe or a file: the message holds the value, the rule and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


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


def did_you_mean(value: str, allowed: "list[str]") -> str:
    """Return ``": did you mean X?"`` for the closest allowed name, or an empty string."""
    import difflib

    close = difflib.get_close_matches(value.lower(), [name.lower() for name in allowed], n=1, cutoff=0.6)
    if not close:
        return ""
    original = next(name for name in allowed if name.lower() == close[0])
    return f": did you mean {original}?"
