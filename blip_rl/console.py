"""Terminal output: lines, progress bars, progress lines for log files."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self

from tqdm import tqdm

ProgressMode = Literal["auto", "bar", "log", "off"]
"""How a training shows its progress; ``auto``: a bar if stderr is a terminal, else lines for a log file."""

LINE_SECONDS = 30.0
"""Least time between two progress lines, unless an evaluation has ended."""


class Console:
    """Prints lines, progress bars and progress lines.

    Attributes:
        quiet: Print nothing.
        bars: Show progress bars on stderr.
        lines: Print progress lines to stdout, for log files.
    """

    def __init__(self, quiet: bool, progress: ProgressMode | None = None) -> None:
        """Create a console.

        Args:
            quiet: Print nothing.
            progress: How to show progress; None: bars on a terminal, otherwise nothing.
        """
        terminal = sys.stderr is not None and sys.stderr.isatty()
        asked = progress or ("bar" if terminal else "off")
        mode = ("bar" if terminal else "log") if asked == "auto" else asked
        self.quiet = quiet
        self.bars = mode == "bar" and not quiet and sys.stderr is not None
        self.lines = mode == "log" and not quiet
        self._last_line = time.monotonic()

    def counter(self, title: str, total: int, unit: str = "game") -> tqdm[Any] | LineCounter:
        """Return a progress bar up to ``total`` units that disappears when closed, or a counter that prints lines."""
        if self.lines:
            return LineCounter(self, title, total, unit)
        return tqdm(total=total, desc=title, unit=unit, leave=False, dynamic_ncols=True, disable=not self.bars)

    def progress_line(self, text: Callable[[], str], *, now: bool = False) -> None:
        """Print a progress line with the time of day, if :attr:`lines` and if the last one is 30 s old.

        Args:
            text: Returns the line; called only if it is printed.
            now: Whether to print it however old the last line is.
        """
        moment = time.monotonic()
        if self.lines and (now or moment - self._last_line >= LINE_SECONDS):
            self._last_line = moment
            self.say(f"{time.strftime('%H:%M:%S')}  {text()}")

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one.

        Errors are ignored: a closed terminal, a broken pipe or a full disk must not end a training.
        """
        with suppress(OSError):
            self.show_result(text)

    def show_result(self, text: str) -> None:
        """Print the result of a command.

        Raises:
            OSError: Standard output cannot be written.
        """
        if not self.quiet and sys.stdout is not None:
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            # Not every terminal or log file can hold arrows and minus signs: they are escaped there.
            tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
            sys.stdout.flush()


class LineCounter:
    """Counts units like a progress bar, and prints a progress line every 30 s."""

    def __init__(self, console: Console, title: str, total: int, unit: str) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, count: int = 1) -> None:
        """Count ``count`` more units."""
        self._done += count
        self._console.progress_line(lambda: f"{self._title}: {self._done:,} of {self._total:,} {self._unit}s")


@contextmanager
def optional_picture(what: str) -> Iterator[None]:
    """Turn every error in the block into a warning, so that a failed picture does not end a training.

    Args:
        what: Description of the picture, for the warning.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"could not log {what}, training continues: {reason}", stacklevel=3)
