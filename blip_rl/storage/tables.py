"""The tables of a run folder: CSV files to which rows are appended."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError
from blip_rl.records import BitsRow, PlasticityRow, ReturnRow, ScoreRow, SpeedRow, cells, columns, read_rows
from blip_rl.storage import atomic
from blip_rl.storage.atomic import Check, unlocked

_ROWS: dict[str, type[Any]] = {
    "scores.csv": ScoreRow,
    "returns.csv": ReturnRow,
    "bits.csv": BitsRow,
    "plasticity.csv": PlasticityRow,
    "speed.csv": SpeedRow,
}


def begin(run: Path, check: Check) -> None:
    """Write the header of every missing table; runs of earlier versions lack some."""
    for name, row_type in _ROWS.items():
        if not (run / name).exists():
            _append(run / name, [columns(row_type)], check)


def append(path: Path, rows: Iterable[Any], check: Check) -> None:
    """Append rows to a table.

    Args:
        path: The table.
        rows: Rows of its type.
        check: Raises if another process has taken the run over; nothing is written then.
    """
    _append(path, [cells(row) for row in rows], check)


def rewrite_scores(path: Path, rows: Iterable[ScoreRow], check: Check) -> None:
    """Replace ``scores.csv`` by a table of other rows, atomically."""
    with atomic.replacing(path, check) as beside:
        _append(beside, [columns(ScoreRow), *(cells(row) for row in rows)], unlocked)


def read_scores(path: Path, most: int | None = None) -> list[ScoreRow]:
    """Return the rows of ``scores.csv``: the first ``most``, or all.

    Raises:
        UserError: The file is missing or damaged.
    """
    found = []
    for line, row in itertools.islice(read_rows(path, ScoreRow), most):
        if isinstance(row, ValueError):
            raise UserError(f"'{path}' cannot be read as scores: line {line}: {row}") from row
        found.append(row)
    return found


def _append(path: Path, rows: Iterable[Sequence[str]], check: Check) -> None:
    if path.exists() and path.stat().st_nlink > 1:
        atomic.separate(path, check=check)
    with path.open("a", newline="", encoding="utf-8") as file:
        # Checked once the file is open. A process that is suspended after the check writes, when it continues, into the
        # file that it has opened, and no longer into the run: whoever takes over replaces every table by a copy
        # (integrity.truncate) or removes it.
        check()
        csv.writer(file, lineterminator="\n").writerows(rows)
