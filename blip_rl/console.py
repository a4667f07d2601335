"""Terminal output: lines, progress bars, aligned tables."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm


class Console:
    """Prints lines and progress bars.

    Attributes:
        quiet: Print nothing.
        bars: Show progress bars: stderr is a terminal, and not ``quiet``.
    """

    def __init__(self, quiet: bool) -> None:
        """Create a console; with ``quiet`` it prints nothing."""
        self.quiet = quiet
        self.bars = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def counter(self, title: str, total: int, unit: str = "game") -> tqdm[Any]:
        """Return a progress bar up to ``total`` units that disappears when closed; hidden without ``bars``."""
        return tqdm(total=total, desc=title, unit=unit, leave=False, dynamic_ncols=True, disable=not self.bars)

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
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


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
        warnings.warn(f"could not log {what} to TensorBoard, training continues: {reason}", stacklevel=3)
