"""Sections about the score matrix and the scores lost by consolidation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blip_rl.reporting import bars, heatmaps
from blip_rl.reporting.chart_data import ChartData
from blip_rl.reporting.drawing import Figure
from blip_rl.reporting.figures import LEGEND_ROW_INCHES, SMALL, WIDE, FigureWriter, PageFigure
from blip_rl.reporting.groups import Group, mean_matrix
from blip_rl.reporting.published import published_table
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.scores import Array
from blip_rl.reporting.section import Section
from blip_rl.reporting.style import Theme
from blip_rl.reporting.text import listed, number

_MATRIX_CAPTION = "Colour scale of all agents and games: −1 or less orange, 0 pale, 1 or more blue."
_MOST_COLUMNS = 6  # of a small figure
_LONGEST_IN_SMALL = 16  # characters of a title beside the rows of a small figure
_RAW_CAPTION = "Not coloured: returns of different games have different scales."


def matrix_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """The score matrix, normalised and raw, of every group."""
    lead = "Row: scores on all games after learning one. Column: score on one game as later games are learned."
    if any(group.first.comes_back for group in groups):
        lead = "Row: scores on all games after a visit to one. Column: score on one game after each visit."
    figures = [
        page_figure
        for group in groups
        for raw in (False, True)
        if (page_figure := _matrix_figure(group, raw, len(groups) > 1, writer)) is not None
    ]
    note = "" if figures else "No game has been scored after its training yet."
    layout = "wide" if any(_is_wide(group) for group in groups) else "pair"
    published = published_table(groups[0].first.tasks)
    tables = () if published is None else (published,)
    return Section("matrix", "Score matrix", lead, tuple(figures), note, layout, tables=tables)


def _is_wide(group: Group) -> bool:
    """Return whether a score matrix has too many columns, or too long titles, for a small figure."""
    tasks = group.first.tasks
    return len(tasks) > _MOST_COLUMNS or any(len(task.title) > _LONGEST_IN_SMALL for task in tasks)


@dataclass(frozen=True)
class _ScoreTable:
    """The measured rows and columns of a group's score matrix.

    Attributes:
        rows: (stages,) labels.
        columns: (games,) labels.
        scores: (stages, games) mean over the runs; NaN where not measured.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    scores: Array

    @property
    def texts(self) -> list[list[str]]:
        """(stages, games) the scores as text; a dash where not measured."""
        return [[number(float(value)) for value in row] for row in self.scores]

    def describe(self) -> str:
        """Return the measured scores, row by row, for the alternative text."""
        rows = []
        for name, texts in zip(self.rows, self.texts, strict=True):
            measured = [f"{game} {text}" for game, text in zip(self.columns, texts, strict=True) if text != "–"]
            rows.append(f"{name}: {', '.join(measured)}")
        return listed(rows)


def _score_table(group: Group, raw: bool) -> _ScoreTable:
    matrix, tasks = mean_matrix(group, "after" if raw else "after_normalised"), group.first.tasks
    measured = np.isfinite(matrix)
    rows, columns = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    run = group.first
    labels = ("all together" if run.learned_together else _row_label(run, row + 1) for row in rows.tolist())
    return _ScoreTable(
        rows=tuple(labels),
        columns=tuple(tasks[column].title for column in columns),
        scores=matrix[np.ix_(rows, columns)],
    )


def _row_label(run: RunRecord, stage: int) -> str:
    return run.stage_title(stage) if run.comes_back else f"after {run.stage_title(stage)}"


def _matrix_figure(group: Group, raw: bool, named: bool, writer: FigureWriter) -> PageFigure | None:
    table = _score_table(group, raw)
    if not table.rows:
        return None
    scores, texts = table.scores, table.texts
    shades = np.where(np.isfinite(scores), 0.0, np.nan) if raw else np.clip(scores, -1, 1)

    def draw(figure: Figure, theme: Theme) -> None:
        heatmaps.draw_matrix(figure.add_subplot(), texts, shades, table.rows, table.columns, theme)

    kind = "raw return" if raw else "normalised"
    return writer.add(
        f"matrix-{'raw' if raw else 'normalised'}-{group.label}",
        draw,
        title=f"{group.label}: {kind}" if named else kind.capitalize(),
        alt=f"Score matrix of {group.label}, {kind}. {table.describe()}",
        data=ChartData(
            ("row", *table.columns),
            tuple((row, *scores) for row, scores in zip(table.rows, table.scores.tolist(), strict=True)),
        ),
        caption=(_RAW_CAPTION if raw else _MATRIX_CAPTION) + _mean_over(group),
        size=((WIDE if _is_wide(group) else SMALL)[0], 0.9 + (0.3 if _is_wide(group) else 0.4) * len(table.rows)),
    )


def _mean_over(group: Group) -> str:
    seeds = sum(run.scores is not None and run.learned > 0 for run in group.runs)
    return f" Mean over {seeds} seeds." if seeds > 1 else ""


def consolidation_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Score before consolidation − score after it."""
    lead = (
        "Score lost at the end of a game, by consolidating it (for BLIP, rounding) or by distilling it: score before − "
        "score after. Points: games. Bars: mean over games."
    )
    names, shown = _consolidation_losses(groups)
    if not shown:
        return Section(
            "consolidation", "Consolidation loss", lead, note="No consolidation has scores both before and after."
        )
    if not any(np.nan_to_num(losses).any() for _, _, losses in shown):
        return Section(
            "consolidation",
            "Consolidation loss",
            lead,
            note="No loss: all scores are equal before and after consolidation.",
        )

    def draw(figure: Figure, theme: Theme) -> None:
        bars.draw_consolidation_loss(figure.add_subplot(), names, shown, theme, "normalised score lost")

    rows_text = [
        f"{label}: after " + ", ".join(_mean_loss(n, r) for n, r in zip(names, losses, strict=True))
        for _, label, losses in shown
    ]
    page_figure = writer.add(
        "consolidation-loss",
        draw,
        title="",
        alt=f"Consolidation loss. {listed(rows_text)}",
        data=_losses_data(groups[0].first, names, shown),
        size=(WIDE[0], 3.1 + LEGEND_ROW_INCHES * len(shown)),
        draw_narrow=draw,
    )
    return Section("consolidation", "Consolidation loss", lead, (page_figure,))


def _losses_data(run: RunRecord, names: Sequence[str], shown: Sequence[tuple[int, str, Array]]) -> ChartData:
    games = tuple(task.title for task in run.tasks)
    rows = [(label, name, *row) for _, label, loss in shown for name, row in zip(names, loss.tolist(), strict=True)]
    return ChartData(("agent", "after learning", *games), tuple(rows))


def _consolidation_losses(groups: Sequence[Group]) -> tuple[list[str], list[tuple[int, str, Array]]]:
    """Return the games after which losses were measured, and of each group with any its number, label and losses.

    Losses are (stages, games); groups may have learned different numbers of games.
    """
    losses = [mean_matrix(group, "lost_normalised") for group in groups]
    found = [(at, groups[at].label, loss) for at, loss in enumerate(losses) if np.isfinite(loss).any()]
    stages = min((len(loss) for _, _, loss in found), default=0)
    rows = [row for row in range(stages) if any(np.isfinite(loss[row]).any() for _, _, loss in found)]
    names = [groups[0].first.stage_title(row + 1) for row in rows]
    return names, [(at, label, loss[rows]) for at, label, loss in found]


def _mean_loss(name: str, losses: Array) -> str:
    known = losses[np.isfinite(losses)]
    return f"{name} {number(float(known.mean()), signed=True) if known.size else 'not measured'}"
