"""What a run prints for a person."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm


class Console:
    """Lines for a person, kept apart from the progress bar; silent when asked to be."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bars = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def counter(self, what: str, total: int, unit: str = "game") -> tqdm[Any]:
        """A bar that counts to ``total`` and then goes away; invisible where bars are."""
        return tqdm(total=total, desc=what, unit=unit, leave=False, dynamic_ncols=True, disable=not self.bars)

    def say(self, text: str) -> None:
        """Print a line, above the bar if one is shown.

        A line that cannot be printed, because the terminal or the reader of a pipe has gone or a log's disk is full,
        is dropped: a training is not ended for it.
        """
        with suppress(OSError):
            self.show_result(text)

    def show_result(self, text: str) -> None:
        """Print what a command was asked for, which must not be lost without a word.

        Raises:
            OSError: stdout cannot be written.
        """
        if not self.quiet and sys.stdout is not None:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


@contextmanager
def optional_picture(what: str) -> Iterator[None]:
    """Turn every error of the block into a warning: a picture is not worth the end of a training.

    Args:
        what: What would have been shown, for the warning.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"TensorBoard lacks {what}, training continues: {reason}", stacklevel=3)
