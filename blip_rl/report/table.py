"""Read the CSV tables that a run appends to, complete or truncated."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blip_rl.errors import UserError
from blip_rl.untrusted.tables import table_rows

MAX_LAYERS = 64
"""Upper limit on the trunk layers of a recipe."""
_LARGEST = 1e15  # above every plausible count or measurement; integers up to here are exact in float64

PLASTICITY = {
    "dormant_share": "Dormant units",
    "effective_rank": "Effective rank",
    "gradient_norm": "Gradient norm",
    "free_bits": "Free bits",
}
"""Column of ``plasticity.csv`` → title. Measured for every layer at each evaluation."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """The complete rows of a CSV file.

    Attributes:
        numbers: Column → (rows,) values; NaN for an empty cell.
        text: Column → (rows,) cells.
    """

    numbers: dict[str, Array]
    text: dict[str, tuple[str, ...]]

    def where(self, column: str, word: str) -> Table:
        """Return the rows whose cell in ``column`` equals ``word``."""
        return self.chosen(np.array([cell == word for cell in self.text[column]], dtype=bool))

    def chosen(self, chosen: npt.NDArray[np.bool_]) -> Table:
        """Return the rows selected by a (rows,) mask."""
        return Table(
            {name: values[chosen] for name, values in self.numbers.items()},
            {
                name: tuple(cell for cell, keep in zip(cells, chosen, strict=True) if keep)
                for name, cells in self.text.items()
            },
        )


def load_plasticity(run: Path, problems: list[str]) -> Table | None:
    """Read ``plasticity.csv``; return None if it does not exist."""
    table = _optional(run / "plasticity.csv", ("env_steps", "stage", *PLASTICITY), ("phase", "layer"), problems)
    if table is not None and (layers := len(set(table.text["layer"]))) > MAX_LAYERS:
        problems.append(f"plasticity.csv names {layers:,} layers: expected at most {MAX_LAYERS}; left out")
        return None
    return table


def load_speed(run: Path, problems: list[str]) -> Table | None:
    """Read ``speed.csv``; return None if it does not exist."""
    return _optional(run / "speed.csv", ("env_steps", "stage", "steps_per_second", "peak_memory_mb"), (), problems)


def load_returns(run: Path, problems: list[str]) -> Table | None:
    """Read ``returns.csv``, mean returns of training episodes; return None if it does not exist."""
    return _optional(run / "returns.csv", ("env_steps", "stage", "episodes", "mean_return"), ("task",), problems)


def _optional(path: Path, numbers: tuple[str, ...], text: tuple[str, ...], problems: list[str]) -> Table | None:
    """Read a table that runs of earlier versions lack: a missing file is not a problem."""
    if not path.exists():
        return None
    table = read_table(path, numbers, text, problems)
    return table if table is not None and len(table.numbers["env_steps"]) else None


def read_table(path: Path, numbers: Sequence[str], text: Sequence[str], problems: list[str]) -> Table | None:
    """Read columns of a CSV file; skip damaged rows and report them in ``problems``.

    Args:
        path: The file.
        numbers: Names of numeric columns. An empty cell becomes NaN.
        text: Names of text columns.
        problems: Receives a message for everything missing or damaged.

    Returns:
        The complete rows; None if the file is missing, cannot be read or lacks a column.
    """
    if not path.is_file():
        problems.append(f"{path.name} is missing")
        return None
    found = _Columns(numbers, text)
    try:
        columns, rows = table_rows(path, errors="replace")
        if absent := [name for name in (*numbers, *text) if name not in columns]:
            problems.append(f"{path.name} has no column {', '.join(absent)}")
            return None
        for _, row in rows:
            found.add(row)
    except UserError as error:
        problems.append(str(error).replace(f"'{path}'", path.name))
        return None
    if found.damaged:
        problems.append(f"{path.name}: {found.damaged} of {found.rows} rows skipped: truncated or damaged")
    return found.table()


class _Columns:
    """Collects the cells of complete rows by column."""

    def __init__(self, numbers: Sequence[str], text: Sequence[str]) -> None:
        self._numbers: dict[str, list[float]] = {name: [] for name in numbers}
        self._text: dict[str, list[str]] = {name: [] for name in text}
        self.rows = self.damaged = 0

    def add(self, row: dict[str, str]) -> None:
        """Append the cells of a row, or count the row as damaged."""
        self.rows += 1
        values = _numbers(row, list(self._numbers))
        if values is None:
            self.damaged += 1
            return
        for column, value in zip(self._numbers.values(), values, strict=True):
            column.append(value)
        for name, cells in self._text.items():
            cells.append(sys.intern(row[name]))  # few distinct values: share one string object per value

    def table(self) -> Table:
        return Table(
            {name: np.array(values, dtype=np.float64) for name, values in self._numbers.items()},
            {name: tuple(cells) for name, cells in self._text.items()},
        )


def _numbers(row: dict[str, str], names: Sequence[str]) -> list[float] | None:
    """Return the numbers of a row; None if the number of cells is wrong or a value is invalid."""
    if None in row or None in row.values():  # csv.DictReader's keys and values for surplus and missing cells
        return None
    try:
        values = [float(row[name]) if row[name] else math.nan for name in names]
    except ValueError:
        return None
    return None if any(abs(value) > _LARGEST for value in values) else values
