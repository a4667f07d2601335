"""Save figures as PNG and SVG files and embed them in the page, in a light and a dark theme."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from blip_rl.report.drawing import Figure, figure
from blip_rl.report.style import DARK, LIGHT, THEMES, Theme
from blip_rl.storage.atomic import replace_bytes

Draw = Callable[[Figure, Theme], object]

SMALL = (4.8, 2.8)
"""(width, height) in inches of a figure shown one per row on a phone and two per row on a screen."""
WIDE = (9.4, 3.9)
NARROW = (4.8, 3.6)
_PNG_DPI = 200
_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class PageFigure:
    """One figure of the page.

    Attributes:
        name: Stem of the file names.
        title: Heading.
        alt: Alternative text with the numbers shown.
        caption: Text below; may be empty.
        light: Data URI of the light theme.
        dark: Data URI of the dark theme.
        width: In CSS pixels.
        height: In CSS pixels.
        narrow: Version for narrow screens; None if the figure is readable there.
    """

    name: str
    title: str
    alt: str
    caption: str
    light: str
    dark: str
    width: int
    height: int
    narrow: PageFigure | None = None


class FigureWriter:
    """Draw figures, save each as PNG and SVG in one folder, and return them for the page."""

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
            caption: Text below.
            size: (width, height) in inches.
            draw_narrow: Draws the version for narrow screens, for a figure wider than ``SMALL``.
        """
        stem = self._stem(name)
        light_svg, png = self._render(draw, size, LIGHT, png=True)
        dark_svg, _ = self._render(draw, size, DARK, png=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(self.folder / f"{stem}.svg", light_svg)
        replace_bytes(self.folder / f"{stem}.png", png)
        picture = _page_figure(stem, title, alt, caption, light_svg, dark_svg, size)
        if draw_narrow is None:
            return picture
        svgs = [self._render(draw_narrow, NARROW, theme, png=False)[0] for theme in THEMES]
        return replace(picture, narrow=_page_figure(stem, title, alt, caption, svgs[0], svgs[1], NARROW))

    def save(self, name: str, draw: Draw, size: tuple[float, float]) -> None:
        """Save a figure as files only, for data that the page shows in another form."""
        stem = self._stem(name)
        svg, png = self._render(draw, size, LIGHT, png=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(self.folder / f"{stem}.svg", svg)
        replace_bytes(self.folder / f"{stem}.png", png)

    def _stem(self, name: str) -> str:
        """Return a unique file stem of ASCII letters, digits and hyphens."""
        letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
        stem = "-".join(part for part in letters.split("-") if part)[:60] or "picture"
        number = 2
        chosen = stem
        while chosen in self._names:
            chosen, number = f"{stem}-{number}", number + 1
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


def _page_figure(
    name: str, title: str, alt: str, caption: str, light: bytes, dark: bytes, size: tuple[float, float]
) -> PageFigure:
    width, height = (round(side * _PIXELS_PER_INCH) for side in size)
    kind = "image/svg+xml"
    return PageFigure(name, title, alt, caption, data_uri(kind, light), data_uri(kind, dark), width, height)


def data_uri(kind: str, content: bytes) -> str:
    """Return a base64 data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
