"""Read the tables that a run appends to, complete or truncated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blip_rl.errors import UserError
from blip_rl.records import AnyRow, PlasticityRow, Row, read_rows

MAX_LAYERS = 64
"""Upper limit on the trunk layers of a recipe."""

PLASTICITY = {
    "dormant_share": "Dormant units",
    "effective_rank": "Effective rank",
    "gradient_norm": "Gradient norm",
    "free_bits": "Free bits",
}
"""Column of ``plasticity.csv`` → title. Measured for every layer at each evaluation."""

Array = npt.NDArray[np.float64]


def load_plasticity(run: Path, problems: list[str]) -> tuple[PlasticityRow, ...]:
    """Read ``plasticity.csv``; return nothing if it does not exist."""
    rows = load_rows(run / "plasticity.csv", PlasticityRow, problems, optional=True)
    return () if too_many_layers("plasticity.csv", {row.layer for row in rows}, problems) else rows


def too_many_layers(name: str, layers: set[str], problems: list[str]) -> bool:
    """Return whether a table names more layers than a trunk can have, and report it in ``problems``."""
    if len(layers) <= MAX_LAYERS:
        return False
    problems.append(f"{name} names {len(layers):,} layers: expected at most {MAX_LAYERS}; left out")
    return True


def load_rows(path: Path, row_type: type[AnyRow], problems: list[str], *, optional: bool = False) -> tuple[AnyRow, ...]:
    """Read a table; skip damaged rows.

    Args:
        path: The file.
        row_type: Type of its rows.
        problems: Receives a message for everything missing or damaged.
        optional: Whether a missing file is no problem: runs of earlier versions lack some tables.

    Returns:
        The complete rows; none if the file is missing, cannot be read or lacks a column.
    """
    if not path.exists():
        problems += [] if optional else [f"{path.name} is missing"]
        return ()
    found: list[AnyRow] = []
    damaged, first = 0, ""
    try:
        for line, row in read_rows(path, row_type, errors="replace"):
            if isinstance(row, ValueError):
                damaged, first = damaged + 1, first or f"line {line}: {row}"
            else:
                found.append(row)
    except UserError as error:
        problems.append(str(error).replace(f"'{path}'", path.name))
        return ()
    if damaged:
        rows = len(found) + damaged
        problems.append(f"{path.name}: {damaged} of {rows} rows skipped: truncated or damaged ({first})")
    return tuple(found)


def as_array(rows: Sequence[Row], column: str) -> Array:
    """Return a column of numbers, (rows,); NaN for an empty cell."""
    return np.array([getattr(row, column) for row in rows], dtype=np.float64)
