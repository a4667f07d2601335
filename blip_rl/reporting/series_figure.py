"""A chart of curves against steps, as several sections show it."""

from __future__ import annotations

from collections.abc import Sequence

from blip_rl.reporting import curves
from blip_rl.reporting.chart_data import series_data
from blip_rl.reporting.drawing import Figure
from blip_rl.reporting.figures import LEGEND_ROW_INCHES, SMALL, FigureWriter, PageFigure
from blip_rl.reporting.groups import Series, describe_series
from blip_rl.reporting.style import Theme, short_number
from blip_rl.reporting.text import listed


def series_figure(
    name: str, title: str, series: Sequence[Series], writer: FigureWriter, *, from_zero: bool = False
) -> PageFigure:
    """Draw curves against steps.

    Args:
        name: Stem of the file names.
        title: Heading, and with a small first letter the label of the y-axis.
        series: The curves.
        writer: Saves the figure.
        from_zero: Whether the y-axis starts at 0.
    """

    def draw(figure: Figure, theme: Theme) -> None:
        ax = curves.draw_curves(figure.add_subplot(), series, theme, title[0].lower() + title[1:])
        ax.set_xlim(left=0)
        if from_zero:
            ax.set_ylim(0, 1.2 * max(1.0, ax.dataLim.ymax))

    ends = [
        f"{one.label} " + ", ".join(short_number(float(values[-1])) for _, values in one.lines if len(values))
        for one in series
    ]
    alt = f"{title} against steps; at the end: {listed(ends)}"
    data = series_data(series, title[0].lower() + title[1:])
    size = (SMALL[0], SMALL[1] + (LEGEND_ROW_INCHES * len(series) if len(series) > 1 else 0.0))
    return writer.add(name, draw, title=title, alt=alt, data=data, caption=describe_series(series), size=size)
