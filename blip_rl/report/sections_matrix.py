"""The sections about the score matrix: what is kept of each game, and what consolidation itself cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_rl.core import metrics
from blip_rl.report import bars, heatmaps
from blip_rl.report.drawing import Figure
from blip_rl.report.figures import SMALL, WIDE, FigureWriter, PageFigure
from blip_rl.report.groups import Group, mean_matrix
from blip_rl.report.scores import Array
from blip_rl.report.section import Section
from blip_rl.report.style import Theme
from blip_rl.report.text import listed, number

_MATRIX_CAPTION = "One colour scale for all agents and games: 0 pale, 1 or more blue, −1 or less orange."


_RAW_CAPTION = "Not coloured: returns of different games have no scale in common."


def matrix_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """The score matrix, normalised and raw, of every group."""
    lead = "Row by row: after learning a game, the score on every game learned until then. Down a column: what is kept."
    figures = [
        page_figure
        for group in groups
        for raw in (False, True)
        if (page_figure := _matrix_figure(group, raw, len(groups) > 1, writer)) is not None
    ]
    return Section(
        "matrix", "Score matrix", lead, tuple(figures), "" if figures else "No score after a game yet.", "pair"
    )


def _matrix_figure(group: Group, raw: bool, named: bool, writer: FigureWriter) -> PageFigure | None:
    matrix = mean_matrix(group, "after" if raw else "after_normalised")
    tasks = group.first.tasks
    rows = [row for row in range(len(matrix)) if np.isfinite(matrix[row]).any()]
    columns = [column for column in range(len(tasks)) if np.isfinite(matrix[:, column]).any()]
    if not rows:
        return None
    cells = matrix[np.ix_(rows, columns)]
    texts = [[number(float(value)) for value in row] for row in cells]
    shades = np.where(np.isfinite(cells), 0.0, np.nan) if raw else np.clip(cells, -1, 1)
    together = rows == [len(tasks) - 1] and len(tasks) > 1
    row_names = ["all together"] if together else [f"after {tasks[row].title}" for row in rows]
    names = [tasks[column].title for column in columns]

    def draw(figure: Figure, theme: Theme) -> None:
        heatmaps.draw_matrix(figure.add_subplot(), texts, shades, row_names, names, theme)

    rows_text = [
        f"{row_name}: " + ", ".join(f"{name} {text}" for name, text in zip(names, row, strict=True) if text != "–")
        for row_name, row in zip(row_names, texts, strict=True)
    ]
    kind = "raw return" if raw else "normalised"
    return writer.add(
        f"matrix-{'raw' if raw else 'normalised'}-{group.label}",
        draw,
        title=f"{group.label}: {kind}" if named else kind.capitalize(),
        alt=f"Score matrix of {group.label}, {kind}. {listed(rows_text)}",
        caption=(_RAW_CAPTION if raw else _MATRIX_CAPTION) + _mean_over(group),
        size=(SMALL[0], 0.9 + 0.4 * len(rows)),
    )


def _mean_over(group: Group) -> str:
    seeds = sum(run.scores is not None and run.learned > 0 for run in group.runs)
    return f" Mean over {seeds} seeds." if seeds > 1 else ""


def rounding_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Score before consolidation − score after it."""
    lead = (
        "What freezing itself cost: score before a consolidation − score after it. A point for each game, a bar for "
        "their mean."
    )
    found = [
        (
            group.label,
            metrics.rounding_loss(mean_matrix(group, "before_normalised"), mean_matrix(group, "after_normalised")),
        )
        for group in groups
    ]
    shown = [(label, losses) for label, losses in found if np.isfinite(losses).any()]
    if not shown:
        return Section("rounding", "Rounding loss", lead, note="No consolidation was scored before and after.")
    width = min(len(losses) for _, losses in shown)
    shown = [(label, losses[:width]) for label, losses in shown]
    rows = [row for row in range(width) if any(np.isfinite(losses[row]).any() for _, losses in shown)]
    names = [groups[0].first.tasks[row].title for row in rows]
    shown = [(label, losses[rows]) for label, losses in shown]
    if not any(np.nan_to_num(losses).any() for _, losses in shown):
        return Section("rounding", "Rounding loss", lead, note="None: every score was the same before and after.")

    def draw(figure: Figure, theme: Theme) -> None:
        bars.draw_rounding(figure.add_subplot(), names, shown, theme, "normalised score lost")

    rows_text = [
        f"{label}: after " + ", ".join(_mean_loss(n, r) for n, r in zip(names, losses, strict=True))
        for label, losses in shown
    ]
    page_figure = writer.add(
        "rounding-loss",
        draw,
        title="",
        alt=f"Rounding loss. {listed(rows_text)}",
        size=(WIDE[0], 3.1),
        draw_narrow=draw,
    )
    return Section("rounding", "Rounding loss", lead, (page_figure,))


def _mean_loss(name: str, losses: Array) -> str:
    known = losses[np.isfinite(losses)]
    return f"{name} {number(float(known.mean()), signed=True) if known.size else 'not measured'}"
