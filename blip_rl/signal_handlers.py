"""Signal handlers for the time of a block."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_handled(names: Sequence[str], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals within the block; the earlier handlers are restored afterwards.

    Does nothing outside of the main thread, where Python cannot set handlers. SIGHUP stays ignored if it was, as under
    ``nohup``.

    Args:
        names: Such as ``SIGINT``; those that the system does not have are left out.
        handler: Called with the signal's number and the interrupted frame.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if "SIGHUP" in names and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
