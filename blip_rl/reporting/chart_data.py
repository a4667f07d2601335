"""The numbers behind a chart: a table below it in the page, and a CSV file to download."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blip_rl.core.intervals import Estimate, describe
from blip_rl.reporting.groups import Group, Series
from blip_rl.reporting.table import Array

Cell = str | float | int | None
"""Of a table; None or NaN where there is no value."""
_MOST_ROWS = 60
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ChartData:
    """A table of numbers.

    Attributes:
        columns: Names.
        rows: Cells, in the order of the columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def csv(self) -> str:
        """The table as CSV, with ten digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_exact(cell) for cell in row] for row in self.rows)
        return text.getvalue()

    @property
    def shown(self) -> list[list[str]]:
        """The first rows as rounded text, for the page."""
        return [[_rounded(cell) for cell in row] for row in self.rows[:_MOST_ROWS]]


def _exact(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:.10g}"
    # Names come from files: a spreadsheet would run such a text as a formula.
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else str(cell)


def _rounded(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or not math.isfinite(cell):
        return "–"
    whole = abs(cell) >= 1000 or float(cell).is_integer()
    return (f"{cell:,.0f}" if whole else f"{cell:.3g}").replace("-", "−")


def series_data(series: Sequence[Series], value: str, extra: Iterable[tuple[Cell, ...]] = ()) -> ChartData:
    """Return the points of curves.

    Args:
        series: The curves. Of several runs, the centre and its interval come before the single runs.
        value: Name of the column of values.
        extra: More rows.
    """
    rows: list[tuple[Cell, ...]] = []
    for one in series:
        if one.low.size:
            kind = describe(len(one.lines)).partition(",")[0]
            rows += [(one.label, kind, *point) for point in _points(one.steps, one.centre, one.low, one.high)]
        rows += _run_rows(one.label, "", one.lines)
        rows += _run_rows(one.label, "fewer episodes", one.partial)
    return ChartData(("agent", "kind", "steps", value, "low", "high"), (*rows, *extra))


def _run_rows(label: str, kind: str, lines: Sequence[tuple[Array, Array]]) -> list[tuple[Cell, ...]]:
    return [
        (label, name, *point, None, None)
        for name, (steps, values) in zip(_run_names(kind, len(lines)), lines, strict=True)
        for point in _points(steps, values)
    ]


def _run_names(kind: str, runs: int) -> list[str]:
    """Name the runs of a group, which are numbered if there are several."""
    names = ["run"] if runs == 1 else [f"run {run}" for run in range(1, runs + 1)]
    return [f"{kind}, {name}" if kind else name for name in names]


def training_rows(group: Group, task: str) -> list[tuple[Cell, ...]]:
    """Return the returns of training episodes on a task as rows of :func:`series_data`."""
    names = _run_names("training episodes", len(group.runs))
    return [
        (group.label, name, row.env_steps, row.mean_return, None, None)
        for name, run in zip(names, group.runs, strict=True)
        for row in run.returns
        if row.task == task
    ]


def _points(steps: Array, *columns: Array) -> list[tuple[Cell, ...]]:
    return [
        (int(at), *(float(value) for value in values)) for at, *values in zip(steps.tolist(), *columns, strict=True)
    ]


def estimate_rows(label: str, one: Estimate, kind: str = "") -> list[tuple[Cell, ...]]:
    """Return the runs of an estimate, its centre and its interval, as (label, kind, value, low, high).

    Args:
        label: Agent.
        one: The estimate.
        kind: Prefix of the kind, as ``worst game``.
    """
    before = f"{kind}, " if kind else ""
    rows: list[tuple[Cell, ...]] = []
    if name := describe(len(one.values)).partition(",")[0]:
        rows.append((label, f"{before}{name}", one.centre, *(one.interval or (None, None))))
    names = _run_names(kind, len(one.values))
    return rows + [(label, name, value, None, None) for name, value in zip(names, one.values, strict=True)]
