"""Style of all figures: light and dark themes, a colour-blind safe palette, safe labels, axes and legends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blip_rl.reporting.drawing import Axes, Axis, Colormap, FuncFormatter, LinearSegmentedColormap, MaxNLocator
from blip_rl.step_counts import short_steps

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH_OF_LETTER = 0.6  # mean width of a character in units of the font size
_POINTS_PER_INCH = 72
BESIDE_LEGEND_INCHES = 0.9
"""Width of a figure that is not available for a legend or tick labels."""
_HANDLE_INCHES, _LETTER_INCHES = 0.5, 0.075
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "//", "..", "xx")


@dataclass(frozen=True)
class Theme:
    """Colours of one theme.

    Attributes:
        name: ``light`` or ``dark``.
        paper: Background.
        text: Titles and numbers.
        muted: Axis labels, ticks and annotations.
        grid: Grid lines.
        shade: Span in which a game is trained.
        series: One per agent, layer or task: the Okabe–Ito palette, adjusted for contrast with the background.
    """

    name: str
    paper: str
    text: str
    muted: str
    grid: str
    shade: str
    series: tuple[str, ...]

    def colour(self, index: int) -> str:
        """Return the colour of series number ``index``, cycling through the palette."""
        return self.series[index % len(self.series)]

    def line(self, index: int) -> str:
        """Return a line style that changes with every cycle of the palette."""
        return _LINES[index // len(self.series) % len(_LINES)]

    def hatch(self, index: int) -> str:
        """Return a hatch that changes with every cycle of the palette, none in the first: for bars."""
        return _HATCHES[index // len(self.series) % len(_HATCHES)]

    @property
    def shades(self) -> Colormap:
        """Colour map for an order, from the first series colour at 0 to the fifth at 1."""
        return LinearSegmentedColormap.from_list(
            f"shades-{self.name}", [self.series[0], self.series[2], self.series[4]]
        )

    @property
    def heat(self) -> Colormap:
        """Diverging colour map for −1 to 1: orange, ``shade`` at 0, blue."""
        colours = [self.series[1], self.shade, self.series[0]]
        return LinearSegmentedColormap.from_list(f"heat-{self.name}", colours)


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    text="#1c2330",
    muted="#5b6575",
    grid="#e4e8ee",
    shade="#eef4f9",
    series=("#0072b2", "#d55e00", "#009e73", "#b8558f", "#b37a00", "#3b9fd6", "#5f6672"),
)
DARK = Theme(
    name="dark",
    paper="#151a22",
    text="#e8ebf1",
    muted="#a3adbc",
    grid="#2b3340",
    shade="#1c2a38",
    series=("#5bb5ea", "#f28a4b", "#2fc79b", "#e39cc6", "#f0b429", "#9ad3f5", "#b4bcc8"),
)


LONGEST_TITLE = 22
"""Letters of a game's title in a chart, so that two games of a sequence do not look alike: "MinAtar Space Invaders"."""


def safe_label(text: str, longest: int = 40) -> str:
    """Make text from a file safe for matplotlib: no mathtext, no control characters, at most ``longest`` characters."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    # Matplotlib leaves labels that start with an underscore out of legends.
    return (f" {shown}" if shown.startswith("_") else shown).replace("$", r"\$")


def short_number(value: float, _position: int | None = None) -> str:
    """Format a return with up to three significant digits: ``−2.5``, ``366``, ``23.3k``."""
    if abs(value) >= 10_000:
        text = short_steps(float(f"{value:.3g}"))
    else:
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def style_axes(ax: Axes, theme: Theme) -> Axes:
    """Apply the common axis style: no frame, horizontal grid lines, muted ticks."""
    ax.set_facecolor("none")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(theme.grid)
    ax.tick_params(colors=theme.muted, length=0, labelsize=10, pad=5)
    ax.xaxis.label.set_color(theme.muted)
    ax.yaxis.label.set_color(theme.muted)
    ax.title.set_color(theme.text)
    ax.grid(axis="y", color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def label_columns(ax: Axes, names: Sequence[str], theme: Theme, inches: float) -> None:
    """Label the columns 0, 1, … that share ``inches``, in two lines; rotate the labels if they are too wide."""
    size = 8.5
    labels = [safe_label(name, 26) for name in names]
    lines = [label.replace(" ", "\n", 1) for label in labels]
    longest = max((len(line) for label in lines for line in label.split("\n")), default=0)
    sloping = longest * size * _WIDTH_OF_LETTER / _POINTS_PER_INCH > inches / max(1, len(names))
    ax.set_xticks(range(len(names)), labels if sloping else lines, color=theme.text, fontsize=size)
    if sloping:
        top = ax.xaxis.get_ticks_position() == "top"
        for label in ax.get_xticklabels():
            label.set(rotation=40, ha="left" if top else "right", rotation_mode="anchor")


def figure_width(ax: Axes) -> float:
    """Return the width in inches of the figure of an axis."""
    figure: Any = ax.get_figure()  # with root=True it needs matplotlib 3.10; an axis is never in a subfigure here
    return float(figure.get_size_inches()[0]) if figure is not None else 0.0


def add_legend(ax: Axes, theme: Theme, above: float = 1.0) -> None:
    """Add a legend above the axis, at ``above`` in axis heights, where it covers no data."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, above), **_legend_style(ax, labels, theme))


def legend_above_all(ax: Axes, theme: Theme) -> None:
    """Move the legend to the top of the figure, above the names that are above the axis."""
    handles, labels = ax.get_legend_handles_labels()
    if (old := ax.get_legend()) is not None:
        old.remove()
    # "outside" makes the constrained layout reserve space.
    ax.figure.legend(handles, labels, loc="outside upper left", **_legend_style(ax, labels, theme))


def _legend_style(ax: Axes, labels: Sequence[str], theme: Theme) -> dict[str, Any]:
    longest = max((len(label) for label in labels), default=0)
    room = figure_width(ax) - BESIDE_LEGEND_INCHES
    return {
        "ncols": max(1, min(len(labels), int(room / (_HANDLE_INCHES + _LETTER_INCHES * longest)))),
        "frameon": False,
        "fontsize": 9,
        "labelcolor": theme.text,
        "borderaxespad": 0.4,
        "handlelength": 1.8,
        "columnspacing": 1.2,
    }


def steps_axis(ax: Axes) -> None:
    """Format the x-axis ticks as steps: 50k, 1.5M."""
    _few_ticks(ax.xaxis, short_steps)


def numbers_axis(axis: Axis) -> None:
    """Format the ticks of an axis as numbers: −2.5, 366, 23.3k."""
    _few_ticks(axis, short_number)


def _few_ticks(axis: Axis, text: Callable[[float, int | None], str]) -> None:
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))  # at most six, at round numbers
    axis.set_major_formatter(_Ticks(text))


_MOST_DIGITS = 12


class _Ticks(FuncFormatter):
    """Short numbers; whole ones where two ticks would be labelled the same, as between 23,300 and 23,400."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        texts: list[str] = super().format_ticks(list(values))
        if len(set(texts)) == len(texts):
            return texts
        step = min(abs(after - value) for value, after in itertools.pairwise(values))
        digits = next((n for n in range(_MOST_DIGITS) if abs(round(step, n) - step) < 0.01 * step), _MOST_DIGITS)
        return [f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in values]
