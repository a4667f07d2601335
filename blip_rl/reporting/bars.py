"""Bar charts and interval plots. Each function draws data on an axis and returns the axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_rl.core.intervals import Estimate
from blip_rl.reporting.drawing import Axes
from blip_rl.reporting.style import (
    BESIDE_LEGEND_INCHES,
    Theme,
    add_legend,
    figure_width,
    label_columns,
    numbers_axis,
    safe_label,
    style_axes,
)
from blip_rl.reporting.table import Array

_LEAST_SPAN = 0.25
"""Minimal x-range, so that a difference of 0.01 does not fill the axis."""


def draw_estimates(
    ax: Axes,
    labels: Sequence[str],
    colours: Sequence[int],
    estimates: Sequence[Estimate],
    theme: Theme,
    *,
    is_score: bool = False,
    worst: Sequence[Estimate] = (),
) -> Axes:
    """Draw one metric of several groups, one row each: seeds as points, centre as diamond, interval as bar.

    Args:
        ax: Where to draw.
        labels: (groups,) names, from top to bottom; they may have two lines.
        colours: (groups,) colour numbers.
        estimates: (groups,) estimates.
        theme: Colours.
        is_score: Whether the metric is a normalised score; marks the reference, 1.
        worst: (groups,) the metric of the worst game, an open triangle; empty for a metric that has none.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x", color=theme.grid, linewidth=0.8)
    for row, one in enumerate(estimates):
        _draw_estimate(ax, row, one, theme.colour(colours[row]), theme)
    for row, one in enumerate(worst):
        ax.plot([one.centre], [row], "<", color=theme.colour(colours[row]), markerfacecolor="none", markersize=7)
    _label_rows(ax, ["\n".join(safe_label(line, 30) for line in label.split("\n")) for label in labels], theme)
    numbers_axis(ax.xaxis)
    ax.margins(x=0.08)
    ax.axvline(0, color=theme.muted, linewidth=1)  # always in view, so that small values look small
    if is_score:
        ax.axvline(1, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
    low, high = ax.get_xlim()
    if high - low < _LEAST_SPAN:
        down = low + high < 0  # extend towards the side of the values
        ax.set_xlim(*((high - _LEAST_SPAN, high) if down else (low, low + _LEAST_SPAN)))
    return ax


def _label_rows(ax: Axes, labels: Sequence[str], theme: Theme) -> None:
    """Label the rows 0, 1, … from top to bottom."""
    ax.set_yticks(range(len(labels)), labels, color=theme.text)
    ax.set_ylim(len(labels) - 0.4, -0.6)


def _draw_estimate(ax: Axes, row: int, one: Estimate, colour: str, theme: Theme) -> None:
    size, alpha = (7.0, 0.9) if one.interval is None else (4.5, 0.45)
    ax.plot(one.values, [row] * len(one.values), "o", color=colour, markersize=size, alpha=alpha, linewidth=0)
    if one.interval is not None:
        ax.plot(one.interval, [row, row], "-", color=colour, linewidth=3, solid_capstyle="round")
        ax.plot([one.centre], [row], "D", color=colour, markersize=7.5, markeredgecolor=theme.paper)


def draw_budget(
    ax: Axes, layers: Sequence[str], frozen: Array, total_bits: int, tasks: Sequence[str], theme: Theme
) -> Axes:
    """Draw the bits frozen by each task: one stacked bar per layer, one segment per task; the rest is free.

    Args:
        ax: Where to draw.
        layers: (layers,) names, from top to bottom.
        frozen: (tasks, layers) mean frozen bits after each task, cumulative.
        total_bits: N, the length of a full bar.
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
    ordered = len(tasks) > len(theme.series)  # more than there are colours: shades, the first and the last named
    for task, name in enumerate(tasks):
        grown = np.where(np.isfinite(frozen[task]), frozen[task] - before, 0)  # NaN: not counted
        named = not ordered or task in (0, len(tasks) - 1)
        colour = theme.shades(task / (len(tasks) - 1)) if ordered else theme.colour(task)
        label = safe_label(name, 26) if named else None
        ax.barh(rows, grown, left=before, color=colour, height=0.62, label=label)
        before = before + grown
    for row, used in enumerate(before):
        ax.annotate(
            f"{total_bits - used:.1f} free",
            (total_bits, row),
            xytext=(6, 0),
            textcoords="offset points",
            ha="left",  # beside the bar: no text colour is readable on every segment
            va="center",
            fontsize=9,
            color=theme.text,
        )
    _label_rows(ax, [safe_label(layer, 16) for layer in layers], theme)
    ax.set_xlim(0, total_bits)
    numbers_axis(ax.xaxis)
    ax.set_xlabel(f"mean bits frozen, of {total_bits}", fontsize=10)
    add_legend(ax, theme)
    return ax


def draw_consolidation_loss(
    ax: Axes, tasks: Sequence[str], groups: Sequence[tuple[int, str, Array]], theme: Theme, ylabel: str
) -> Axes:
    """Draw the score lost by consolidation: one bar per stage and group (mean over games), one point per game.

    Args:
        ax: Where to draw.
        tasks: (stages,) names of the consolidated tasks.
        groups: (colour number, label, (stages, tasks) score before − score after) of each group; NaN where not
            measured.
        theme: Colours.
        ylabel: Label of the y-axis.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    width = 0.7 / max(1, len(groups))
    for place, (index, label, losses) in enumerate(groups):
        at = np.arange(len(tasks)) + (place - (len(groups) - 1) / 2) * width
        counts = np.isfinite(losses).sum(axis=1).clip(1)
        ax.bar(
            at,
            np.nansum(losses, axis=1) / counts,
            width * 0.86,
            color=theme.colour(index),
            hatch=theme.hatch(index),
            edgecolor=theme.paper,
            linewidth=0,
            alpha=0.75,
            label=safe_label(label),
        )
        for centre, row in zip(at, losses, strict=True):
            shown = row[np.isfinite(row)]
            x = np.full(len(shown), centre)
            ax.plot(x, shown, "o", color=theme.text, markersize=3.6, alpha=0.7, linewidth=0)
    ax.axhline(0, color=theme.muted, linewidth=1)
    label_columns(ax, tasks, theme, figure_width(ax) - BESIDE_LEGEND_INCHES)
    ax.set_xlabel("after learning", fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    low, high = ax.get_ylim()
    if high - low < 0.02:
        ax.set_ylim(-0.05, 0.05)  # do not magnify losses close to zero
    numbers_axis(ax.yaxis)
    if len(groups) > 1:
        add_legend(ax, theme)
    return ax
