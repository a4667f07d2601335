"""Charts: each function takes data and an axis, draws, and returns the axis; nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from blip_rl.report.groups import Estimate, Series
from blip_rl.report.style import (
    MARKERS,
    Theme,
    dress,
    few_ticks,
    figure_width,
    haloed,
    name_ticks,
    plain,
    short_number,
    steps_axis,
)

Array = npt.NDArray[np.float64]

_FEW_POINTS = 40
_BESIDE_LEGEND_INCHES, _HANDLE_INCHES, _LETTER_INCHES = 0.9, 0.5, 0.075


def draw_curves(ax: Axes, series: Sequence[Series], theme: Theme, ylabel: str) -> Axes:
    """Draw a line for each series against steps and its 95 % interval as a band.

    The single runs are drawn too: faintly beside the one series, strongly where a series has no mean, not at all
    where several bands would hide behind them.

    Args:
        ax: Where to draw.
        series: What to draw; without a centre, as with two seeds, every run is a line with points.
        theme: Colours.
        ylabel: What is measured.

    Returns:
        ``ax``.
    """
    dress(ax, theme)
    for one in series:
        colour, dashes = theme.colour(one.index), theme.line(one.index)
        alone = not one.centre.size
        for number, (steps, values) in enumerate(one.lines):
            if alone or (len(one.lines) > 1 and len(series) == 1):
                ax.plot(
                    steps,
                    values,
                    dashes,
                    color=colour,
                    linewidth=1.4 if alone else 0.8,
                    alpha=0.9 if alone else 0.3,
                    label=plain(one.label) if alone and number == 0 else None,
                    **_points(steps, one.index, alone),
                )
        if one.low.size:
            ax.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
        if one.centre.size:
            ax.plot(
                one.steps,
                one.centre,
                dashes,
                color=colour,
                linewidth=2.2,
                label=plain(one.label),
                solid_capstyle="round",
                **_points(one.steps, one.index, True),
            )
    steps_axis(ax)
    ax.set_xlabel("steps of the whole run", fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    ax.yaxis.set_major_formatter(FuncFormatter(short_number))
    ax.yaxis.set_major_locator(few_ticks())
    ax.margins(x=0.02, y=0.12)
    low, high = ax.dataLim.intervaly
    if low == high:
        # One value shall not be spread over a whole axis of decimals.
        ax.set_ylim(*((-0.05, 1) if low == 0 else sorted((low * 0.5, low * 1.5))))
    if len(series) > 1:
        add_legend(ax, theme)
    return ax


def _points(steps: Array, index: int, wanted: bool) -> dict[str, Any]:
    """Marks where something was measured, unless they would hide the line."""
    if not wanted or len(steps) > _FEW_POINTS:
        return {}
    return {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.5}


def add_legend(ax: Axes, theme: Theme, above: float = 1.0) -> None:
    """Name the series above the chart, where no line can run through the names; ``above`` in heights of the axis."""
    handles, labels = ax.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0)
    room = figure_width(ax) - _BESIDE_LEGEND_INCHES
    columns = max(1, min(len(labels), int(room / (_HANDLE_INCHES + _LETTER_INCHES * longest))))
    ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, above),
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        borderaxespad=0.4,
        handlelength=1.8,
        columnspacing=1.2,
    )


def draw_boundaries(ax: Axes, boundaries: Sequence[tuple[float, str]], theme: Theme) -> Axes:
    """Mark where a game ends and the next begins, with the next one's name at the top of the line.

    Args:
        ax: Where to draw, after the curves: the names stay inside the axis.
        boundaries: (steps, name of what begins there), rising.
        theme: Colours.
    """
    for steps, name in boundaries:
        ax.axvline(steps, color=theme.muted, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        ax.annotate(
            plain(name, 18),
            (steps, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -4),
            textcoords="offset points",
            fontsize=8.5,
            color=theme.muted,
            rotation=90,
            va="top",
            ha="left",
            path_effects=haloed(theme),
        )
    return ax


def draw_spans(ax: Axes, spans: Sequence[tuple[float, float, str]], theme: Theme) -> Axes:
    """Mark what is learned when: a line at each boundary, the name of each span above the axis.

    Args:
        ax: Where to draw, after the curves.
        spans: (first step, last step, name), rising.
        theme: Colours.
    """
    for start, end, name in spans:
        if start > 0:
            ax.axvline(start, color=theme.muted, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        ax.annotate(
            plain(name, 18),
            ((start + end) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=9,
            color=theme.muted,
            ha="center",
            va="bottom",
        )
    if ax.get_legend() is not None:
        add_legend(ax, theme, above=1.07)
    return ax


def draw_own_training(ax: Axes, start: float, end: float, theme: Theme) -> Axes:
    """Shade the span in which the game itself is trained."""
    ax.axvspan(start, end, color=theme.shade, linewidth=0, zorder=0)
    return ax


def draw_level(ax: Axes, value: float, name: str, theme: Theme) -> Axes:
    """A horizontal line to compare with, such as random play; the axis does not stretch for it."""
    low, high = ax.get_ylim()
    if low <= value <= high:
        ax.axhline(value, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        ax.annotate(
            plain(name),
            (0, value),
            xycoords=("axes fraction", "data"),
            xytext=(2, 2),
            textcoords="offset points",
            fontsize=8.5,
            color=theme.muted,
            ha="left",
            va="bottom",
            path_effects=haloed(theme),
        )
    return ax


def draw_estimates(
    ax: Axes, labels: Sequence[str], colours: Sequence[int], estimates: Sequence[Estimate], theme: Theme
) -> Axes:
    """Draw one metric of several groups: a row each, seeds as small points, the mean as a mark, its interval as a bar.

    Args:
        ax: Where to draw.
        labels: (groups,) names, from the top.
        colours: (groups,) number of each one's colour.
        estimates: (groups,) what to draw.
        theme: Colours.

    Returns:
        ``ax``.
    """
    dress(ax, theme)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x", color=theme.grid, linewidth=0.8)
    for row, one in enumerate(estimates):
        colour = theme.colour(colours[row])
        size, alpha = (7.0, 0.9) if one.interval is None else (4.5, 0.45)
        ax.plot(one.values, [row] * len(one.values), "o", color=colour, markersize=size, alpha=alpha, linewidth=0)
        if one.interval is not None:
            ax.plot(one.interval, [row, row], "-", color=colour, linewidth=3, solid_capstyle="round")
            ax.plot([one.centre], [row], "D", color=colour, markersize=7.5, markeredgecolor=theme.paper)
    ax.set_yticks(range(len(labels)), [plain(label, 30) for label in labels], color=theme.text)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.xaxis.set_major_locator(few_ticks())
    ax.xaxis.set_major_formatter(FuncFormatter(short_number))
    ax.margins(x=0.08)
    low, high = ax.get_xlim()
    if low < 0 < high:
        ax.axvline(0, color=theme.muted, linewidth=1)
    return ax


def draw_budget(
    ax: Axes, layers: Sequence[str], frozen: Array, total_bits: int, tasks: Sequence[str], theme: Theme
) -> Axes:
    """Draw what each task took of every layer's bits: a bar for each layer, a piece for each task, the rest free.

    Args:
        ax: Where to draw.
        layers: (layers,) names, from the top.
        frozen: (tasks, layers) mean bits frozen in total after each task.
        total_bits: N, the length of a whole bar.
        tasks: (tasks,) names.
        theme: Colours.

    Returns:
        ``ax``.
    """
    dress(ax, theme)
    ax.grid(visible=False)
    rows = np.arange(len(layers))
    ax.barh(rows, np.full(len(layers), total_bits), color=theme.shade, height=0.62)
    before = np.zeros(len(layers))
    for task, name in enumerate(tasks):
        grown = np.nan_to_num(frozen[task]) - before
        ax.barh(rows, grown, left=before, color=theme.colour(task), height=0.62, label=plain(name, 22))
        before = before + grown
    for row, used in enumerate(before):
        ax.annotate(
            f"{total_bits - used:.1f} free",
            (total_bits, row),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color=theme.text if used < 0.8 * total_bits else theme.paper,
        )
    ax.set_yticks(rows, [plain(layer, 16) for layer in layers], color=theme.text)
    ax.set_ylim(len(layers) - 0.4, -0.6)
    ax.set_xlim(0, total_bits)
    ax.xaxis.set_major_locator(few_ticks())
    ax.xaxis.set_major_formatter(FuncFormatter(short_number))
    ax.set_xlabel(f"mean bits frozen, of {total_bits}", fontsize=10)
    add_legend(ax, theme)
    return ax


def draw_rounding(
    ax: Axes, tasks: Sequence[str], groups: Sequence[tuple[str, Array]], theme: Theme, ylabel: str
) -> Axes:
    """Draw what consolidation cost: a bar for each stage and group, the mean over games; a point for each game.

    Args:
        ax: Where to draw.
        tasks: (stages,) what was consolidated.
        groups: Label and (stages, tasks) score before − score after; NaN where not measured.
        theme: Colours.
        ylabel: What is lost.

    Returns:
        ``ax``.
    """
    dress(ax, theme)
    width = 0.7 / max(1, len(groups))
    for index, (label, losses) in enumerate(groups):
        at = np.arange(len(tasks)) + (index - (len(groups) - 1) / 2) * width
        measured = np.isfinite(losses)
        counts = np.maximum(measured.sum(axis=1), 1)
        means = np.where(measured, losses, 0).sum(axis=1) / counts
        ax.bar(at, means, width * 0.86, color=theme.colour(index), alpha=0.75, label=plain(label))
        for place, row in zip(at, losses, strict=True):
            shown = row[np.isfinite(row)]
            ax.plot(
                [place] * len(shown),
                shown,
                "o",
                color=theme.text,
                markersize=3.6,
                alpha=0.7,
                linewidth=0,
            )
    ax.axhline(0, color=theme.muted, linewidth=1)
    name_ticks(ax, tasks, theme, figure_width(ax) - _BESIDE_LEGEND_INCHES)
    ax.set_xlabel("after learning", fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    low, high = ax.get_ylim()
    if high - low < 0.02:
        ax.set_ylim(-0.05, 0.05)  # no loss at all shall not look like noise
    ax.yaxis.set_major_locator(few_ticks())
    ax.yaxis.set_major_formatter(FuncFormatter(short_number))
    if len(groups) > 1:
        add_legend(ax, theme)
    return ax
