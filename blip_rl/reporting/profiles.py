"""Draw performance profiles and the line of even odds. Each function draws data on an axis and returns the axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blip_rl.reporting.drawing import Axes
from blip_rl.reporting.style import Theme, add_legend, numbers_axis, safe_label, style_axes
from blip_rl.reporting.table import Array


@dataclass(frozen=True)
class Profile:
    """A performance profile.

    Attributes:
        label: Legend entry.
        index: Colour number.
        share: (thresholds,) share of the scores above each threshold.
        low: (thresholds,) lower end of the 95 % interval; empty without one.
        high: (thresholds,) upper end.
    """

    label: str
    index: int
    share: Array
    low: Array
    high: Array


def draw_profiles(ax: Axes, thresholds: Array, profiles: Sequence[Profile], theme: Theme) -> Axes:
    """Draw each profile as a line, with its interval as a band.

    Args:
        ax: Where to draw.
        thresholds: (thresholds,) increasing scores.
        profiles: Of one agent each.
        theme: Colours.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    for one in profiles:
        colour = theme.colour(one.index)
        if one.low.size:
            ax.fill_between(thresholds, one.low, one.high, color=colour, alpha=0.15, linewidth=0, step="post")
        label = safe_label(one.label)
        ax.step(thresholds, one.share, theme.line(one.index), where="post", color=colour, linewidth=2.2, label=label)
    ax.set_xlim(thresholds[0], thresholds[-1])
    ax.set_ylim(-0.02, 1.05)
    numbers_axis(ax.xaxis)
    numbers_axis(ax.yaxis)
    ax.set_xlabel("final normalised score", fontsize=10)
    ax.set_ylabel("share of runs and games above", fontsize=10)
    if len(profiles) > 1:
        add_legend(ax, theme)
    return ax


def mark_even_odds(ax: Axes, theme: Theme) -> Axes:
    """Draw a dotted line at a probability of ½, on an x-axis from 0 to 1."""
    ax.axvline(0.5, color=theme.muted, linewidth=1, linestyle=(0, (1, 2)))
    ax.set_xlim(-0.04, 1.04)
    return ax
