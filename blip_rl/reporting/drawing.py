"""Import matplotlib and create figures with the Agg backend and matplotlib's default rcParams.

No other module imports matplotlib. Figures must not depend on the user's environment: Jupyter and Colab pass their
backend to child processes in ``MPLBACKEND``, and a ``matplotlibrc`` may require LaTeX. A program that uses this package
as a library keeps its backend and its rcParams.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blip_rl.errors import UserError


@contextmanager
def _importing_matplotlib() -> Iterator[None]:
    """Hide ``MPLBACKEND`` from the import, which fails if the variable names a backend that is not installed.

    Raises:
        UserError: Matplotlib cannot be imported, for example because a ``matplotlibrc`` is not UTF-8 text.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    except Exception as error:
        raise UserError(f"matplotlib cannot be imported: {error} (check matplotlibrc, or reinstall it)") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):  # as the import would have set it: a notebook keeps its inline figures
            matplotlib.rcParams["backend"] = backend


with _importing_matplotlib():
    import matplotlib
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

__all__ = [
    "Axes",
    "Axis",
    "Colormap",
    "Figure",
    "FuncFormatter",
    "LinearSegmentedColormap",
    "MaxNLocator",
    "Normalize",
    "colormaps",
    "figure",
    "font_file",
    "pixels",
]

# rc_context does not restore the backend. A fixed salt makes the ids in an SVG reproducible.
_DEFAULTS: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
_DEFAULTS["svg.hashsalt"] = "blip-rl"


@contextmanager
def figure(size: tuple[float, float], *, dpi: float = 100, paper: str = "white") -> Iterator[Figure]:
    """Yield an empty figure; draw and save it within the block, where matplotlib's defaults apply.

    Args:
        size: (width, height) in inches.
        dpi: Pixels per inch of :func:`pixels`.
        paper: Background colour.
    """
    with warnings.catch_warnings(), matplotlib.rc_context(_DEFAULTS):
        # Labels may contain glyphs that the font lacks; axes of a single point may have no width.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        empty = Figure(figsize=size, dpi=dpi, layout="constrained", facecolor=paper)
        FigureCanvasAgg(empty)
        yield empty


def pixels(drawn: Figure) -> npt.NDArray[np.uint8]:
    """Return a figure of :func:`figure` as an RGB image, (height, width, 3)."""
    canvas: Any = FigureCanvasAgg(drawn)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3].copy()


def font_file(bold: bool) -> Path:
    """Return the file of DejaVu Sans, which matplotlib ships, so that text is identical on every machine."""
    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
