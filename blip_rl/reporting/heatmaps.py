"""Heatmaps of frozen bits (blue: few, red: many; BLIP Fig. 2) and of the score matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from blip_rl.reporting.drawing import Axes, Colormap, MaxNLocator, Normalize, colormaps, figure, pixels
from blip_rl.reporting.style import LONGEST_TITLE, Theme, figure_width, label_columns, safe_label, style_axes

Array = npt.NDArray[np.float64]

_COLOURS = "RdYlBu_r"
_WIDEST = 640
_LEVELS = 256
_ROW_NAMES_INCHES = 1.5
_DARKEST_FOR_DARK_TEXT = 0.21


def draw_frozen_bits(ax: Axes, frozen_bits: npt.NDArray[np.generic], total_bits: int, title: str) -> Axes:
    """Draw one layer's frozen bits: one row per output unit, one column per weight of a unit.

    Args:
        ax: Where to draw.
        frozen_bits: (outputs, ...) S of every weight.
        total_bits: N, the upper end of the colour scale, common to all layers and tasks.
        title: Layer and task.

    Returns:
        ``ax``.
    """
    rows = frozen_bits.reshape(len(frozen_bits), -1)
    image = ax.imshow(rows, cmap=_COLOURS, vmin=0, vmax=total_bits, aspect="auto", interpolation="nearest")
    ax.set_title(f"{title}\nmean {rows.mean():.1f} of {total_bits} bits frozen")
    ax.set_xlabel("weights of a unit")
    ax.set_ylabel("output units")
    ax.set_xticks([])  # of a large layer the axes count blocks of weights
    ax.set_yticks([])
    ax.figure.colorbar(image, ax=ax, ticks=MaxNLocator(4, integer=True))
    return ax


def frozen_bits_image(frozen_bits: npt.NDArray[np.generic], total_bits: int, title: str) -> npt.NDArray[np.uint8]:
    """Return one layer's heatmap as an RGB image, (height, width, 3).

    Its text can be read where a picture is about 300 pixels wide, as on a card of TensorBoard.
    """
    with figure((4, 2.8), dpi=120) as empty:
        draw_frozen_bits(empty.add_subplot(), frozen_bits, total_bits, title)
        return pixels(empty)


def draw_layer(
    axes: Sequence[Axes], maps: Sequence[npt.NDArray[np.generic]], total_bits: int, names: Sequence[str], theme: Theme
) -> Sequence[Axes]:
    """Draw one layer after each task, side by side on a common colour scale.

    Args:
        axes: (tasks,) where to draw.
        maps: (tasks,) arrays of (units, weights of a unit) frozen bits or block means.
        total_bits: N, the upper end of the colour scale.
        names: (tasks,) titles.
        theme: Colours.

    Returns:
        ``axes``.
    """
    for ax, bits, name in zip(axes, maps, names, strict=True):
        image = ax.imshow(bits, cmap=_COLOURS, vmin=0, vmax=total_bits, aspect="auto", interpolation="nearest")
        ax.set_title(
            f"{safe_label(name, LONGEST_TITLE)}\nmean {float(np.mean(np.asarray(bits, np.float64))):.1f}",
            fontsize=10,
            color=theme.text,
        )
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    bar = axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.9, pad=0.02)
    bar.set_label("frozen bits", color=theme.muted, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=theme.muted, length=0)
    bar.outline.set_visible(False)
    return axes


def block_mean(
    frozen_bits: npt.NDArray[np.uint8], highest: int = 128, widest: int = _WIDEST
) -> npt.NDArray[np.float32]:
    """Downsample by means over blocks of weights to at most (highest, widest); return small layers unchanged.

    Args:
        frozen_bits: (units, weights of a unit).
        highest: Maximal number of rows.
        widest: Maximal number of columns.

    Returns:
        (rows, columns) means; the last block of an axis may be smaller than the others.
    """
    rows, columns = frozen_bits.shape
    tall, wide = -(-rows // highest), -(-columns // widest)
    row_starts, column_starts = np.arange(0, rows, tall), np.arange(0, columns, wide)
    sums = np.add.reduceat(frozen_bits, row_starts, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, column_starts, axis=1, dtype=np.uint32)
    heights = np.diff(np.append(row_starts, rows))
    widths = np.diff(np.append(column_starts, columns))
    return np.asarray(sums / np.outer(heights, widths), dtype=np.float32)


def bits_png(bits: npt.NDArray[np.generic], total_bits: int) -> bytes:
    """Encode a PNG with one pixel per value, from blue (0) to red (``total_bits``)."""
    levels = np.clip(np.round(np.asarray(bits, dtype=np.float32) * ((_LEVELS - 1) / total_bits)), 0, _LEVELS - 1)
    image = Image.fromarray(levels.astype(np.uint8))
    image.putpalette(_palette().tobytes(), "RGB")
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _palette() -> npt.NDArray[np.uint8]:
    """Return the (256, 3) RGB colours of the scale."""
    colours = colormaps[_COLOURS](np.linspace(0, 1, _LEVELS))[:, :3]
    return np.asarray(np.round(colours * 255), dtype=np.uint8)


def scale_css() -> str:
    """Return the colour scale as a CSS gradient, from 0 to ``total_bits``."""
    chosen = _palette()[:: _LEVELS // 8]
    return "linear-gradient(90deg, " + ", ".join(f"rgb({r} {g} {b})" for r, g, b in chosen.tolist()) + ")"


def draw_matrix(
    ax: Axes,
    texts: Sequence[Sequence[str]],
    shades: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    theme: Theme,
) -> Axes:
    """Draw a score matrix: a labelled cell per stage and game, empty where not measured.

    All matrices share one colour scale, so that agents can be compared.

    Args:
        ax: Where to draw.
        texts: (stages, games) cell labels.
        shades: (stages, games) values from −1 (orange) over 0 (pale) to 1 (blue); NaN for an empty cell.
        rows: (stages,) labels.
        columns: (games,) labels.
        theme: Colours.

    Returns:
        ``ax``.
    """
    style_axes(ax, theme)
    ax.grid(visible=False)
    colours = theme.heat
    ax.imshow(shades, cmap=colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    size = 10 if len(columns) <= 6 else 8
    for (row, column), shade in np.ndenumerate(shades):
        if np.isfinite(shade):
            colour = _text_colour(colours, float(shade))
            ax.text(column, row, texts[row][column], ha="center", va="center", fontsize=size, color=colour)
    ax.xaxis.tick_top()
    label_columns(ax, columns, theme, figure_width(ax) - _ROW_NAMES_INCHES)
    ax.set_yticks(range(len(rows)), [safe_label(name, 28) for name in rows], color=theme.text, fontsize=9)
    ax.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=theme.paper, linewidth=2.5)
    ax.tick_params(which="minor", length=0)
    ax.spines["bottom"].set_visible(False)
    return ax


def _text_colour(colours: Colormap, shade: float) -> str:
    """Return dark text for a light cell and light text for a dark cell."""
    red, green, blue, _ = colours(Normalize(-1, 1)(np.clip(shade, -1, 1)))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2  # WCAG 2, relative luminance
    return "#10151c" if luminance > _DARKEST_FOR_DARK_TEXT else "#ffffff"
