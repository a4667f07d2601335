"""Save figures as PNG, SVG and CSV files and embed them in the page, in a light and a dark theme."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blip_rl.reporting.chart_data import ChartData
from blip_rl.reporting.drawing import Figure, figure
from blip_rl.reporting.style import DARK, LIGHT, Theme
from blip_rl.storage.atomic import replace_bytes

Draw = Callable[[Figure, Theme], object]

SMALL = (4.8, 2.8)
"""(width, height) in inches of a figure shown one per row on a phone and two per row on a screen."""
WIDE = (9.4, 3.9)
NARROW = (4.8, 3.6)
LEGEND_ROW_INCHES = 0.17
"""Height to add to a figure for each row of its legend, so that it takes no room from the curves."""
_PNG_DPI = 200
_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class PageImage:
    """An image of the page: data URIs of both themes, width and height in CSS pixels."""

    light: str
    dark: str
    width: int
    height: int

    @classmethod
    def of(cls, light: bytes, dark: bytes, size: tuple[float, float]) -> PageImage:
        """Embed two SVGs of a size in inches."""
        width, height = (round(side * _PIXELS_PER_INCH) for side in size)
        return cls(data_uri("image/svg+xml", light), data_uri("image/svg+xml", dark), width, height)


@dataclass(frozen=True)
class DataFile:
    """The numbers of a chart, and the name of their CSV file."""

    name: str
    table: ChartData

    @property
    def content(self) -> bytes:
        """The file."""
        return self.table.csv.encode("utf-8", "backslashreplace")

    @property
    def uri(self) -> str:
        """The file as a data URI: the page offers it without a network."""
        return data_uri("text/csv;charset=utf-8", self.content)


@dataclass(frozen=True)
class PageFigure:
    """One figure of the page.

    Attributes:
        title: Heading.
        alt: Alternative text with the numbers shown.
        caption: Text below; may be empty.
        image: The figure.
        data: The numbers shown.
        narrow: Version for narrow screens; None if the figure is readable there.
    """

    title: str
    alt: str
    caption: str
    image: PageImage
    data: DataFile
    narrow: PageImage | None = None


class FigureWriter:
    """Draw figures, save each as PNG, SVG and CSV in one folder, and return them for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: set[str] = set()

    def add(
        self,
        name: str,
        draw: Draw,
        *,
        title: str,
        alt: str,
        data: ChartData,
        caption: str = "",
        size: tuple[float, float] = SMALL,
        draw_narrow: Draw | None = None,
    ) -> PageFigure:
        """Draw, save and return a figure.

        Args:
            name: Stem of the file names; characters other than letters and digits become hyphens.
            draw: Called with an empty figure and a theme, once for each theme.
            title: Heading.
            alt: Alternative text.
            data: The numbers shown.
            caption: Text below.
            size: (width, height) in inches.
            draw_narrow: Draws the version for narrow screens, for a figure wider than ``SMALL``.
        """
        stem = self._stem(name)
        light = self._save(stem, draw, size)
        file = self._save_data(stem, data)
        dark, _ = self._render(draw, size, DARK, png=False)
        narrow = None
        if draw_narrow is not None:
            light_svg, dark_svg = (self._render(draw_narrow, NARROW, theme, png=False)[0] for theme in (LIGHT, DARK))
            narrow = PageImage.of(light_svg, dark_svg, NARROW)
        return PageFigure(title, alt, caption, PageImage.of(light, dark, size), file, narrow)

    def save(self, name: str, draw: Draw, size: tuple[float, float]) -> None:
        """Save a figure as files alone: the page shows some figures in another form."""
        self._save(self._stem(name), draw, size)

    def save_data(self, name: str, data: ChartData) -> DataFile:
        """Save the numbers of a picture that the page shows in another form, and return them for the page."""
        return self._save_data(self._stem(name), data)

    def _save_data(self, stem: str, data: ChartData) -> DataFile:
        file = DataFile(f"{stem}.csv", data)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(self.folder / file.name, file.content)
        return file

    def _save(self, stem: str, draw: Draw, size: tuple[float, float]) -> bytes:
        """Save a figure as files and return its SVG."""
        svg, png = self._render(draw, size, LIGHT, png=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(self.folder / f"{stem}.svg", svg)
        replace_bytes(self.folder / f"{stem}.png", png)
        return svg

    def _stem(self, name: str) -> str:
        """Return a unique file stem of ASCII letters, digits and hyphens."""
        stem = "-".join(re.findall(r"[A-Za-z0-9]+", name))[:60] or "picture"
        numbered = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        chosen = next(name for name in numbered if name not in self._names)
        self._names.add(chosen)
        return chosen

    @staticmethod
    def _render(draw: Draw, size: tuple[float, float], theme: Theme, *, png: bool) -> tuple[bytes, bytes]:
        """Return (SVG, PNG or empty). The same data gives the same bytes."""
        svg_file, png_file = io.BytesIO(), io.BytesIO()
        with figure(size, paper=theme.paper) as drawn:
            draw(drawn, theme)
            drawn.draw_without_rendering()
            drawn.set_layout_engine("none")  # keep the layout: savefig would compute it again for each file
            drawn.savefig(svg_file, format="svg", metadata={"Date": None})
            if png:
                drawn.savefig(png_file, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        return svg_file.getvalue(), png_file.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """Return a base64 data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
