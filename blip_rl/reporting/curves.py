"""Line charts against training steps. Each function draws data on an axis and returns the axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from blip_rl.reporting.drawing import Axes
from blip_rl.reporting.groups import Series
from blip_rl.reporting.style import (
    BESIDE_LEGEND_INCHES,
    LONGEST_TITLE,
    MARKERS,
    Theme,
    add_legend,
    figure_width,
    legend_above_all,
    numbers_axis,
    safe_label,
    steps_axis,
    style_axes,
)
from blip_rl.reporting.table import Array

_FEW_POINTS = 40
_FEW_RUNS = 2
_LETTER_INCHES = 0.08  # width of a character of a name above an axis
_MANY_BOUNDARIES = 24
_SLOPING_INCHES = 0.3  # distance of two sloping names
_SLOPE_DEGREES = 30  # rotation of names above an axis, which may be close to each other


def draw_curves(ax: Axes, series: Sequence[Series], theme: Theme, ylabel: str) -> Axes:
    """Draw each series against steps as a line, with its 95 % interval as a band.

    Single runs are drawn faintly if there is one series, fully if a series has no centre, and are left out otherwise,
    where they would hide the bands.

    Args:
        ax: Where to draw.
        series: Curves; of a series without a centre, as with two seeds, every run is a line with markers.
        theme: Colours.
        ylabel: Label of the y-axis.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    for one in series:
        if not one.centre.size or (len(one.lines) > 1 and len(series) == 1):
            _draw_runs(ax, one, theme)
        if len(series) == 1 or len(one.partial) <= _FEW_RUNS:
            _draw_partial(ax, one, theme)
        _draw_centre(ax, one, theme)
    steps_axis(ax)
    ax.set_xlabel("steps of the whole run", fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    numbers_axis(ax.yaxis)
    _set_margins(ax)
    if len(series) > 1:
        add_legend(ax, theme)
    return ax


def _draw_centre(ax: Axes, one: Series, theme: Theme) -> None:
    """Draw the centre of the seeds as a line and its interval as a band, where there are any."""
    colour = theme.colour(one.index)
    if one.low.size:
        ax.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
    if one.centre.size:
        ax.plot(
            one.steps,
            one.centre,
            theme.line(one.index),
            color=colour,
            linewidth=2.2,
            label=safe_label(one.label),
            solid_capstyle="round",
            **_points(one.steps, one.index, True),
        )


def _set_margins(ax: Axes) -> None:
    """Leave room around the data; a constant gets a wide y-axis instead of one that spans only its last decimals."""
    ax.margins(x=0.02, y=0.12)
    low, high = ax.dataLim.intervaly
    if low == high:
        ax.set_ylim(*((-0.05, 1) if low == 0 else sorted((low * 0.5, low * 1.5))))


def _draw_runs(ax: Axes, one: Series, theme: Theme) -> None:
    """Draw a line for each run: faint if there is a centre, full otherwise."""
    alone = not one.centre.size
    for number, (steps, values) in enumerate(one.lines):
        ax.plot(
            steps,
            values,
            theme.line(one.index),
            color=theme.colour(one.index),
            linewidth=1.4 if alone else 0.8,
            alpha=0.9 if alone else 0.3,
            label=safe_label(one.label) if alone and number == 0 else None,
            **_points(steps, one.index, alone),
        )


def draw_training(ax: Axes, lines: Sequence[tuple[Array, Array]], index: int, theme: Theme) -> Axes:
    """Draw the returns of training episodes as thin lines behind those of the evaluations.

    Args:
        ax: Where to draw, before :func:`draw_curves`, which sets the axis limits.
        lines: (steps, mean returns) of each run.
        index: Colour number of the group's series.
        theme: Colours.
    """
    for steps, values in lines:
        ax.plot(steps, values, theme.line(index), color=theme.colour(index), linewidth=0.8, alpha=0.45, zorder=1.5)
    return ax


def _points(steps: Array, index: int, wanted: bool) -> dict[str, Any]:
    """Return marker arguments, or none if there are so many points that markers would hide the line."""
    if not wanted or len(steps) > _FEW_POINTS:
        return {}
    return {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.5}


def _draw_partial(ax: Axes, one: Series, theme: Theme) -> None:
    """Draw open markers without a line: values that are not comparable with those of the line."""
    for steps, values in one.partial:
        ax.plot(
            steps,
            values,
            MARKERS[one.index % len(MARKERS)],
            color=theme.colour(one.index),
            markerfacecolor="none",
            markersize=4,
            alpha=0.55,
        )


def draw_from_zero(ax: Axes, theme: Theme) -> Axes:
    """Start the y-axis of normalised scores at 0, or below a negative score, and mark the reference, 1.

    Args:
        ax: Where to draw, after the curves.
        theme: Colours.
    """
    low, high = ax.dataLim.intervaly
    bottom, top = min(0.0, low), max(1.0, high)
    room = top - bottom
    ax.set_ylim(bottom - (0.06 * room if low < 0 else 0), top + 0.12 * room)
    if low < 0:
        ax.axhline(0, color=theme.muted, linewidth=0.9)
    ax.axhline(
        1, color=theme.muted, linewidth=1, linestyle=(0, (1, 2))
    )  # explained in the caption: a label would cover data
    return ax


def draw_boundaries(ax: Axes, boundaries: Sequence[tuple[float, str]], theme: Theme) -> Axes:
    """Mark task boundaries, with the name of the task that starts above the axis, where it covers no data.

    Args:
        ax: Where to draw, after the curves and their legend, which moves above the names.
        boundaries: (steps, name of the task that starts or an empty string), increasing; of many, some are not named.
        theme: Colours.
    """
    every = _names_apart(ax, len(boundaries))
    for number, (steps, name) in enumerate(boundaries):
        _mark(ax, steps, theme, len(boundaries))
        if name and number % every == 0:
            _name_sloping(ax, steps, name, theme)
    if boundaries and ax.get_legend() is not None:
        legend_above_all(ax, theme)
    return ax


def draw_spans(ax: Axes, spans: Sequence[tuple[float, float, str]], theme: Theme) -> Axes:
    """Mark when each task is trained: a line at each boundary, the name of the task above the axis, sloping if long.

    Args:
        ax: Where to draw, after the curves.
        spans: (first step, last step, name), increasing; of many, some are not named.
        theme: Colours.
    """
    longest = max((len(name) for _, _, name in spans), default=0)
    level = longest * _LETTER_INCHES * len(spans) <= figure_width(ax) - BESIDE_LEGEND_INCHES
    every = 1 if level else _names_apart(ax, len(spans))
    for number, (start, end, name) in enumerate(spans):
        if start > 0:
            _mark(ax, start, theme, len(spans))
        if level:
            _name_above(ax, (start + end) / 2, name, theme, fontsize=9, ha="center")
        elif number % every == 0:
            _name_sloping(ax, (start + end) / 2, name, theme)
    if ax.get_legend() is not None:
        add_legend(ax, theme, above=1.07) if level else legend_above_all(ax, theme)
    return ax


def _names_apart(ax: Axes, count: int) -> int:
    """Return k if there is room to name every k-th of ``count`` places with sloping names."""
    return math.ceil(count * _SLOPING_INCHES / max(1.0, figure_width(ax) - BESIDE_LEGEND_INCHES)) or 1


def _name_sloping(ax: Axes, steps: float, name: str, theme: Theme) -> None:
    _name_above(ax, steps, name, theme, fontsize=8.5, rotation=_SLOPE_DEGREES, rotation_mode="anchor", ha="left")


def _name_above(ax: Axes, steps: float, name: str, theme: Theme, **style: Any) -> None:
    """Write the name of a task above the axis, where it covers no data."""
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
    ax.annotate(safe_label(name, LONGEST_TITLE), (steps, 1), **place, color=theme.muted, va="bottom", **style)


def _mark(ax: Axes, steps: float, theme: Theme, count: int) -> None:
    """Draw one of ``count`` boundaries, faint if they are many."""
    faint = min(1.0, _MANY_BOUNDARIES / max(1, count))
    ax.axvline(steps, color=theme.muted, linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5, alpha=faint)


def draw_own_training(ax: Axes, start: float, end: float, theme: Theme, name: str = "") -> Axes:
    """Shade a span in which the task itself is trained, with a name above the axis."""
    ax.axvspan(start, end, color=theme.shade, linewidth=0, zorder=0)
    if name:
        _name_above(ax, (start + end) / 2, name, theme, fontsize=8.5, ha="center")
    return ax


def draw_level(ax: Axes, value: float, name: str, theme: Theme) -> Axes:
    """Draw a horizontal reference line, named right of the axis, if it is within the limits of the axis."""
    low, high = ax.get_ylim()
    if low <= value <= high:
        ax.axhline(value, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
        ax.annotate(
            safe_label(name).replace(" ", "\n"),
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=theme.muted,
            ha="left",
            va="center",
        )
    return ax
