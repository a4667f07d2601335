"""Data classes that the page template renders."""

from __future__ import annotations

from dataclasses import dataclass

from blip_rl.reporting.figures import DataFile, PageFigure


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: HTML id.
        title: Heading.
        lead: Introduction: what the section shows.
        figures: In order.
        note: Why the section is empty, or what was left out; may be empty.
        layout: ``wide`` for one figure per row, ``pair`` for two.
        maps: Heatmaps of frozen bits, one entry per run.
        gifs: Videos.
        tables: Tables of numbers, one for each agent.
    """

    anchor: str
    title: str
    lead: str
    figures: tuple[PageFigure, ...] = ()
    note: str = ""
    layout: str = "wide"
    maps: tuple[MapGroup, ...] = ()
    gifs: tuple[Gif, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row: its title, a remark on it, and (value, remark) of each cell."""

    title: str
    remark: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table of numbers: heading, (name, definition) of each column, rows."""

    label: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class MapCell:
    """One heatmap of frozen bits: data URI, lines below it, alternative text."""

    source: str
    below: tuple[str, ...]
    alt: str
    small: bool


@dataclass(frozen=True)
class MapGroup:
    """The heatmaps of one run: one row per layer, one column per task."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[MapCell | None, ...]], ...]
    total_bits: int
    data: DataFile


@dataclass(frozen=True)
class Gif:
    """A GIF, embedded in the page or linked.

    Attributes:
        label: Heading.
        rows: What each row of the grid shows.
        source: Data URI or relative path.
        inline: Whether it is embedded.
        size: Size of the file.
    """

    label: str
    rows: str
    source: str
    inline: bool
    size: str
