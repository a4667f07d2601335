"""The number of training steps that a running training has completed, in a small file of its folder."""

from __future__ import annotations

from pathlib import Path

from blip_rl.errors import UserError
from blip_rl.untrusted.files import read_text

STEP_COUNTER = ".steps"
"""Name of the file in a run folder."""
_MOST_DIGITS = 18


def write_steps(run: Path, env_steps: int) -> None:
    """Store the number of completed training steps."""
    counter = run / STEP_COUNTER
    counter.unlink(missing_ok=True)  # not overwritten: it could be a link to another file
    with counter.open("x", encoding="utf-8") as file:
        file.write(str(env_steps))


def read_steps(run: Path) -> int:
    """Return the number stored by :func:`write_steps`; 0 if it is missing or unreadable."""
    try:
        text = read_text(run / STEP_COUNTER, _MOST_DIGITS)
    except UserError:
        return 0
    return int(text) if text.isascii() and text.isdecimal() else 0
