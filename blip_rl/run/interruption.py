"""Interrupted runs: signals that request a stop, and the message that says how to resume."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from blip_rl.errors import RunError, TakenOverError, UserError, error_text, is_out_of_memory
from blip_rl.shell import shell_command
from blip_rl.signal_handlers import signals_handled
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot_names import snapshot_steps

# SIGHUP: the terminal was closed. SIGUSR1: batch schedulers send it some time before SIGKILL.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopRequestError(BaseException):
    """Unwinds the stack to a point where the run can be saved; a BaseException, so that no error handler catches it."""


class StopRequest:
    """Records whether a signal has requested a stop.

    Attributes:
        signal_number: Number of the first signal; None before one arrives.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Create a request; ``say`` prints a line when the first signal arrives."""
        self._say = say
        self.signal_number: int | None = None

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            StopRequestError: A signal has arrived.
        """
        if self.signal_number is not None:
            raise StopRequestError

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM, SIGHUP and SIGUSR1 within the block; the second SIGINT raises KeyboardInterrupt.

        Does nothing outside of the main thread.
        """
        with signals_handled(_SIGNALS, self._handle):
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal_number is None:
            self.signal_number = number
            with suppress(RuntimeError):  # printing is not reentrant: the signal may have interrupted a print
                self._say(f"{signal.Signals(number).name}: stopping after this update (Ctrl-C again exits immediately)")


@contextmanager
def with_resume_hint(folder: RunFolder) -> Iterator[None]:
    """Add to errors in the block how to resume the run.

    Raises:
        RunError: Training diverged, a game failed, a file could not be written, or memory ran out.
        TakenOverError: Another process has taken the run over: it is not this one's to resume.
    """
    try:
        yield
    except (UserError, TakenOverError):
        raise
    except Exception as error:
        if isinstance(error, FloatingPointError | OSError | RunError) or is_out_of_memory(error):
            raise RunError(f"{error_text(error)}; {resume_hint(folder)}") from error
        error.add_note(resume_hint(folder))  # a bug: keep its traceback
        raise


def resume_hint(folder: RunFolder) -> str:
    """Return the step of the newest snapshot, and the command that resumes the run."""
    saved = folder.snapshots()
    where = f"saved at step {snapshot_steps(saved[-1]):,}" if saved else "no snapshot yet"
    return f"{where}; resume with: {shell_command('blip-rl', 'train', '--resume', folder.path)}"
