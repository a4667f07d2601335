"""Heatmaps of frozen bits: blue few, red many (BLIP Fig. 2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = "RdYlBu_r"


def draw_frozen_bits(ax: Axes, frozen_bits: npt.NDArray[np.uint8], total_bits: int, title: str) -> Axes:
    """Draw one layer's frozen bits: a row for each output unit, a column for each of its weights.

    Args:
        ax: Where to draw.
        frozen_bits: (outputs, ...) S of every weight.
        total_bits: N, the upper end of the scale: the same for all layers and tasks, so pictures can be compared.
        title: What layer, after which task.

    Returns:
        ``ax``.
    """
    rows = frozen_bits.reshape(len(frozen_bits), -1)
    image = ax.imshow(rows, cmap=_COLOURS, vmin=0, vmax=total_bits, aspect="auto", interpolation="nearest")
    ax.set_title(f"{title}\nmean {rows.mean():.1f} of {total_bits} bits frozen", fontsize=10)
    ax.set_xlabel("weights of one unit", fontsize=9)
    ax.set_ylabel("output units", fontsize=9)
    ax.tick_params(labelsize=8)
    colour_bar = ax.figure.colorbar(image, ax=ax, label="frozen bits")
    colour_bar.ax.tick_params(labelsize=8)
    return ax


def frozen_bits_figure(frozen_bits: npt.NDArray[np.uint8], total_bits: int, title: str) -> Figure:
    """One layer's heatmap as a figure of its own."""
    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    draw_frozen_bits(figure.add_subplot(), frozen_bits, total_bits, title)
    return figure
