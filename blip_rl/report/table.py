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
"""Of a trunk, as recipes allow it."""
_LARGEST = 1e15  # no count or measurement comes near, and whole numbers are exact up to here

PLASTICITY = {
    "dormant_share": "Dormant units",
    "effective_rank": "Effective rank",
    "gradient_norm": "Gradient norm",
    "free_bits": "Free bits",
}
"""Measured at each evaluation for every layer: column of ``plasticity.csv`` → what it is called."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """The whole rows of a file.

    Attributes:
        numbers: Column → (rows,) values; NaN where a cell is empty.
        text: Column → its cells.
    """

    numbers: dict[str, Array]
    text: dict[str, tuple[str, ...]]

    def where(self, column: str, word: str) -> Table:
        """The rows with this word in a column."""
        return self.chosen(np.array([cell == word for cell in self.text[column]], dtype=bool))

    def chosen(self, chosen: npt.NDArray[np.bool_]) -> Table:
        """The rows where this is true."""
        return Table(
            {name: values[chosen] for name, values in self.numbers.items()},
            {
                name: tuple(cell for cell, keep in zip(cells, chosen, strict=True) if keep)
                for name, cells in self.text.items()
            },
        )


def load_plasticity(run: Path, problems: list[str]) -> Table | None:
    """Read ``plasticity.csv``; None where the run wrote none."""
    table = _optional(run / "plasticity.csv", ("env_steps", "stage", *PLASTICITY), ("phase", "layer"), problems)
    if table is not None and (layers := len(set(table.text["layer"]))) > MAX_LAYERS:
        problems.append(f"plasticity.csv names {layers:,} layers: expected at most {MAX_LAYERS}; left out")
        return None
    return table


def load_speed(run: Path, problems: list[str]) -> Table | None:
    """Read ``speed.csv``; None where the run wrote none."""
    return _optional(run / "speed.csv", ("env_steps", "stage", "steps_per_second", "peak_memory_mb"), (), problems)


def load_returns(run: Path, problems: list[str]) -> Table | None:
    """Read ``returns.csv``, the mean returns of training episodes; None where the run wrote none."""
    return _optional(run / "returns.csv", ("env_steps", "stage", "episodes", "mean_return"), ("task",), problems)


def _optional(path: Path, numbers: tuple[str, ...], text: tuple[str, ...], problems: list[str]) -> Table | None:
    """A table that runs of earlier versions do not have: its absence is no problem."""
    if not path.exists():
        return None
    table = read_table(path, numbers, text, problems)
    return table if table is not None and len(table.numbers["env_steps"]) else None


def read_table(path: Path, numbers: Sequence[str], text: Sequence[str], problems: list[str]) -> Table | None:
    """Read the named columns of a CSV file; what cannot be read is said in ``problems``.

    Args:
        path: The file.
        numbers: Columns of numbers. An empty cell is NaN.
        text: Columns of text.
        problems: Extended by what is missing or damaged.

    Returns:
        The rows that are whole; None where the file is missing, unreadable or without one of the columns.
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
        problems.append(f"{path.name}: {found.damaged} of {found.rows} rows left out, cut off or damaged")
    return found.table()


class _Columns:
    """The columns of the whole rows so far."""

    def __init__(self, numbers: Sequence[str], text: Sequence[str]) -> None:
        self._numbers: dict[str, list[float]] = {name: [] for name in numbers}
        self._text: dict[str, list[str]] = {name: [] for name in text}
        self.rows = self.damaged = 0

    def add(self, row: dict[str, str]) -> None:
        """Take over a row's cells, or count it as damaged."""
        self.rows += 1
        values = _numbers(row, list(self._numbers))
        if values is None:
            self.damaged += 1
            return
        for column, value in zip(self._numbers.values(), values, strict=True):
            column.append(value)
        for name, cells in self._text.items():
            cells.append(sys.intern(row[name]))  # a few words, many times

    def table(self) -> Table:
        return Table(
            {name: np.array(values, dtype=np.float64) for name, values in self._numbers.items()},
            {name: tuple(cells) for name, cells in self._text.items()},
        )


def _numbers(row: dict[str, str], names: Sequence[str]) -> list[float] | None:
    """The row's numbers; None where it has too few or too many cells or one is no number that can be meant."""
    if None in row or None in row.values():  # csv's marks for too many and too few cells
        return None
    try:
        values = [float(row[name]) if row[name] else math.nan for name in names]
    except ValueError:
        return None
    return None if any(abs(value) > _LARGEST for value in values) else values
