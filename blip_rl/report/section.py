"""What a part of the page is made of: plain values that the template fills in."""

from __future__ import annotations

from dataclasses import dataclass

from blip_rl.report.figures import PageFigure


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its address inside the page.
        title: Heading.
        lead: What is to be seen.
        figures: In order.
        note: Why there is nothing to see, or what was left out; may be empty.
        layout: ``wide`` for one picture a row, ``pair`` for two.
        maps: Rows of heatmaps of frozen bits.
        gifs: Moving pictures.
    """

    anchor: str
    title: str
    lead: str
    figures: tuple[PageFigure, ...] = ()
    note: str = ""
    layout: str = "wide"
    maps: tuple[MapGroup, ...] = ()
    gifs: tuple[Gif, ...] = ()


@dataclass(frozen=True)
class MapCell:
    """One heatmap of frozen bits: its address, the lines below it, what it shows in words."""

    source: str
    below: tuple[str, ...]
    alt: str
    small: bool


@dataclass(frozen=True)
class MapGroup:
    """The heatmaps of one run: a row for each layer, a column for each task."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[MapCell | None, ...]], ...]
    total_bits: int


@dataclass(frozen=True)
class Gif:
    """A moving picture, in the page or linked."""

    label: str
    source: str
    inline: bool
    size: str
