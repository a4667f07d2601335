"""Format scores, durations and tables as text for the terminal, reports and captions; standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_SIGNIFICANT_DIGITS = 3
_MOST_DECIMALS = 6


def score_text(value: float, *, signed: bool = False) -> str:
    """Format a return or a normalised score with three significant digits; never round digits before the point.

    A fixed number of decimals does not suit all games: returns of 0.958 and of 23,310 are both common.

    Args:
        value: The score; non-finite values are formatted by ``str``.
        signed: Write ``+`` in front of positive values, for differences.

    Returns:
        ``0.958``, ``21.0``, ``-2.50``, ``3,440``, ``+0.0120``; zero is ``0.00``.
    """
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    if rounded == 0:
        return "0.00"
    before_point = math.floor(math.log10(abs(rounded))) + 1
    decimals = min(max(0, _SIGNIFICANT_DIGITS - before_point), _MOST_DECIMALS)
    text = format(value, f"{'+' if signed else ''},.{decimals}f")
    return text if any(digit in text for digit in "123456789") else "0.00"


def duration(seconds: float) -> str:
    """Format seconds as ``45 s``, ``12 min``, ``3.5 h`` or ``2.1 days``."""
    for unit, size in (("days", 86_400), ("h", 3_600)):
        if seconds >= size * 1.5:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def aligned(rows: list[list[str]], left: int = 2) -> list[str]:
    """Return one line of text per row, with columns padded to equal width.

    Args:
        rows: Cells, the same number in every row.
        left: Number of leading columns that are aligned left; the others are aligned right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def flatten(table: dict[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables as (joined key, value), for example ``("ppo.learning_rate", 1e-4)``.

    Entries of an array of tables are numbered from 1: ``tasks[1].name``.
    """
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, separator, f"{name}{separator}")
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            for number, entry in enumerate(value, start=1):
                yield from flatten(entry, separator, f"{name}[{number}]{separator}")
        else:
            yield name, value
