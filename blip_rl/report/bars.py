"""Charts of rows and bars: each function takes data and an axis, draws, and returns the axis; nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_rl.core.intervals import Estimate
from blip_rl.report.drawing import Axes, FuncFormatter
from blip_rl.report.style import (
    BESIDE_LEGEND_INCHES,
    Theme,
    add_legend,
    few_ticks,
    figure_width,
    label_columns,
    safe_label,
    short_number,
    style_axes,
)
from blip_rl.report.table import Array

_LEAST_SPAN = 0.25
"""Of an axis of changes of normalised scores: a hundredth shall not fill it."""


def draw_estimates(
    ax: Axes,
    labels: Sequence[str],
    colours: Sequence[int],
    estimates: Sequence[Estimate],
    theme: Theme,
    *,
    is_score: bool = False,
) -> Axes:
    """Draw one metric of several groups: a row each, seeds as points, the centre as a mark, its interval as a bar.

    Args:
        ax: Where to draw.
        labels: (groups,) names, from the top.
        colours: (groups,) number of each one's colour.
        estimates: (groups,) what to draw.
        theme: Colours.
        is_score: A normalised score, whose axis shows the reference, 1, and no change of one.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x", color=theme.grid, linewidth=0.8)
    for row, one in enumerate(estimates):
        _draw_estimate(ax, row, one, theme.colour(colours[row]), theme)
    ax.set_yticks(range(len(labels)), [safe_label(label, 30) for label in labels], color=theme.text)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.xaxis.set_major_locator(few_ticks())
    ax.xaxis.set_major_formatter(FuncFormatter(short_number))
    ax.margins(x=0.08)
    ax.axvline(0, color=theme.muted, linewidth=1)  # always in view: a small difference shall look small
    if is_score:
        ax.axvline(1, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
    low, high = ax.get_xlim()
    if high - low < _LEAST_SPAN:
        down = low + high < 0  # towards the side that the values are on
        ax.set_xlim(*((high - _LEAST_SPAN, high) if down else (low, low + _LEAST_SPAN)))
    return ax


def _draw_estimate(ax: Axes, row: int, one: Estimate, colour: str, theme: Theme) -> None:
    size, alpha = (7.0, 0.9) if one.interval is None else (4.5, 0.45)
    ax.plot(one.values, [row] * len(one.values), "o", color=colour, markersize=size, alpha=alpha, linewidth=0)
    if one.interval is not None:
        ax.plot(one.interval, [row, row], "-", color=colour, linewidth=3, solid_capstyle="round")
        ax.plot([one.centre], [row], "D", color=colour, markersize=7.5, markeredgecolor=theme.paper)


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
    style_axes(ax, theme)
    ax.grid(visible=False)
    rows = np.arange(len(layers))
    ax.barh(rows, np.full(len(layers), total_bits), color=theme.shade, height=0.62)
    before = np.zeros(len(layers))
    for task, name in enumerate(tasks):
        grown = np.where(np.isfinite(frozen[task]), frozen[task] - before, 0)  # NaN: not counted
        ax.barh(rows, grown, left=before, color=theme.colour(task), height=0.62, label=safe_label(name, 22))
        before = before + grown
    for row, used in enumerate(before):
        ax.annotate(
            f"{total_bits - used:.1f} free",
            (total_bits, row),
            xytext=(6, 0),
            textcoords="offset points",
            ha="left",  # beside the bar: on it no one colour can be read on every piece
            va="center",
            fontsize=9,
            color=theme.text,
        )
    ax.set_yticks(rows, [safe_label(layer, 16) for layer in layers], color=theme.text)
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
    style_axes(ax, theme)
    width = 0.7 / max(1, len(groups))
    for index, (label, losses) in enumerate(groups):
        at = np.arange(len(tasks)) + (index - (len(groups) - 1) / 2) * width
        counts = np.isfinite(losses).sum(axis=1).clip(1)
        ax.bar(
            at,
            np.nansum(losses, axis=1) / counts,
            width * 0.86,
            color=theme.colour(index),
            alpha=0.75,
            label=safe_label(label),
        )
        for place, row in zip(at, losses, strict=True):
            shown = row[np.isfinite(row)]
            x = np.full(len(shown), place)
            ax.plot(x, shown, "o", color=theme.text, markersize=3.6, alpha=0.7, linewidth=0)
    ax.axhline(0, color=theme.muted, linewidth=1)
    label_columns(ax, tasks, theme, figure_width(ax) - BESIDE_LEGEND_INCHES)
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
