"""Asked to stop: by Ctrl-C, or by a scheduler that wants its machine back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from blip_rl.errors import RunError, UserError, error_text, is_out_of_memory
from blip_rl.shell import shell_command
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot_names import snapshot_steps

# SIGHUP: the terminal has gone. SIGUSR1 is what batch schedulers send some time before they kill.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class StopRequestError(BaseException):
    """Leave what is being done, back to where the run can be saved; no error handler should catch it."""


class StopRequest:
    """Whether, and by which signal, the run has been asked to stop.

    Attributes:
        signal_number: Of the first request; None while there is none.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self._say = say
        self.signal_number: int | None = None

    def check(self) -> None:
        """Leave if a request has come.

        Raises:
            StopRequestError: it has.
        """
        if self.signal_number is not None:
            raise StopRequestError

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Take the signals within the block; only the main thread can. A second Ctrl-C leaves at once.

        SIGHUP stays ignored where it is, as under ``nohup``.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            numbers.remove(signal.SIGHUP)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal_number is None:
            self.signal_number = number
            with suppress(RuntimeError):  # Python forbids to print within a print that the signal broke into
                self._say(f"{signal.Signals(number).name}: stopping after this update (Ctrl-C again leaves at once)")


@contextmanager
def with_resume_hint(folder: RunFolder) -> Iterator[None]:
    """Add to whatever ends the block how the run goes on.

    Raises:
        RunError: the training diverged, a game failed, a file could not be written, memory was not enough.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FloatingPointError | OSError | RunError) or is_out_of_memory(error):
            raise RunError(f"{error_text(error)}; {resume_hint(folder)}") from error
        error.add_note(resume_hint(folder))  # a fault of the program: its traceback is wanted
        raise


def resume_hint(folder: RunFolder) -> str:
    """Where the last good state is, and the command that goes on from it."""
    saved = folder.snapshots()
    where = f"saved at step {snapshot_steps(saved[-1]):,}" if saved else "nothing is saved yet"
    return f"{where}; go on with: {shell_command('blip-rl', 'train', '--resume', folder.path)}"
