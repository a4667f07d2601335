"""Format scores for the terminal, reports and captions. Standard library only."""

from __future__ import annotations

import math

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
