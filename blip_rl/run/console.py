"""What a run prints for a person."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Console:
    """Lines for a person, kept apart from the progress bar; silent when asked to be."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bars = not quiet and sys.stderr.isatty()

    def counter(self, what: str, total: int) -> tqdm[Any]:
        """A bar that counts to ``total`` and then goes away; invisible where bars are."""
        return tqdm(total=total, desc=what, unit="game", leave=False, dynamic_ncols=True, disable=not self.bars)

    def say(self, text: str) -> None:
        """Print a line, above the bar if one is shown."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
