"""Sheets of moving pictures: games side by side, with row and column labels and a caption under each.

A sheet is drawn picture by picture; :mod:`blip_rl.video.encode` writes it to a file.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blip_rl.tasks.pictures import Frame

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the last two are just outside."""

_WIDTH = 160  # of a game's picture at scale 1: Atari's own
_BACKGROUND = (13, 17, 23)  # dark, as most games are: it stands on light and on dark pages
_TEXT = (240, 243, 246)
_DIM = (157, 167, 179)
_BRIGHT = (255, 200, 87)
_SMALLEST_TEXT = 9  # pixels
_SHADE = 51  # a fifth of 255
_HOLD_SECONDS = 1.0  # for which the end is shown before the loop begins again


@dataclass(frozen=True)
class Clip:
    """The beginning of a game.

    Attributes:
        frames: As PNG files, which are small to keep and lose nothing; equal distances in time.
        over: Whether the last picture is the end of the game.
    """

    frames: tuple[bytes, ...]
    over: bool

    @staticmethod
    def of(frames: Iterable[Frame], over: bool) -> Clip:
        """Put pictures away."""
        return Clip(tuple(_png(frame) for frame in frames), over)

    def frame(self, number: int) -> Frame:
        """Frame ``number``, counted from 0; the last one for ever after."""
        with Image.open(io.BytesIO(self.frames[min(number, len(self.frames) - 1)])) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class GridCell:
    """One film of a sheet: its place, and the caption under it, of which the right part stands out.

    Attributes:
        bright: Whether the caption is to catch the eye.
    """

    clip: Clip
    left: str
    right: str
    row: int = 0
    column: int = 0
    bright: bool = False


@dataclass(frozen=True)
class Labels:
    """Text around the cells of a sheet; what is empty takes no room.

    Attributes:
        columns: One above each column.
        rows: Two lines left of each row: a small one, and a name.
        corner: Lines in the upper left corner, of which the first stands out.
        footer: A line below everything.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    corner: tuple[str, ...] = ()
    footer: str = ""


class Grid:
    """Cells and labels laid out, to be drawn at any moment.

    Attributes:
        fps: Pictures a second, of every film and of the sheet.
        size: (width, height) in pixels.
        boxes: Where each cell's film is, in the order of the cells.
    """

    def __init__(self, cells: tuple[GridCell, ...], labels: Labels, fps: float, scale: float = 1.0) -> None:
        """Lay out.

        Args:
            cells: At least one.
            labels: Text around them.
            fps: Pictures a second.
            scale: 1: pictures 160 pixels wide, as Atari draws them; all pictures are brought to one width.
        """
        self.fps = fps
        self._cells = cells
        self._width = max(1, round(_WIDTH * scale))
        self._gap = max(4, round(10 * scale))
        self._text = round(14 + 6 * scale)
        self._heights = self._row_heights()
        self._left = self._gap + self._label_width(labels)
        self._top = self._gap + (round(1.5 * self._text) if labels.columns else 0)
        self.boxes = [self._box(cell) for cell in cells]
        self._footer = round(1.2 * self._text) if labels.footer else 0
        self.size = (
            max(box[2] for box in self.boxes) + self._gap,
            max(box[3] for box in self.boxes) + self._caption + self._gap + self._footer,
        )
        self._background = self._draw_still(labels)
        self._shown: dict[int, tuple[int, Frame]] = {}

    def __len__(self) -> int:
        """Pictures until the sheet begins again: those of the longest film, then its end for a while."""
        return max(len(cell.clip.frames) for cell in self._cells) + round(_HOLD_SECONDS * self.fps)

    def frame(self, number: int) -> Frame:
        """Draw picture ``number``, counted from 0; a film that is shorter than the others stays at its end."""
        frame = self._background.copy()
        for index, (cell, (left, top, right, bottom)) in enumerate(zip(self._cells, self.boxes, strict=True)):
            # One picture past the last marks the end of a game that is over.
            moment = min(number, len(cell.clip.frames))
            if self._shown.get(index, (-1,))[0] != moment:
                self._shown[index] = moment, self._draw(cell.clip, moment)
            picture = self._shown[index][1]
            frame[top : min(bottom, top + picture.shape[0]), left:right] = picture[: bottom - top]
        return frame

    @property
    def _caption(self) -> int:
        return round(1.45 * self._text)

    def _row_heights(self) -> list[int]:
        """Height of the films of each row: that of the highest."""
        heights = [0] * (1 + max(cell.row for cell in self._cells))
        for cell in self._cells:
            height, width = cell.clip.frame(0).shape[:2]
            heights[cell.row] = max(heights[cell.row], max(1, round(height * self._width / width)))
        return heights

    def _label_width(self, labels: Labels) -> int:
        """Width left of the cells, with the gap that follows."""
        texts = [(name, self._text) for _, name in labels.rows] + [(small, self._small) for small, _ in labels.rows]
        texts += [(labels.corner[0], self._text)] if labels.corner else []
        texts += [(line, self._small) for line in labels.corner[1:]]
        widest = max((_font(size, True).getlength(text) for text, size in texts), default=0)
        return min(round(widest), round(1.2 * self._width)) + (self._gap if texts else 0)

    @property
    def _small(self) -> int:
        return round(0.75 * self._text)

    def _box(self, cell: GridCell) -> Box:
        left = self._left + cell.column * (self._width + self._gap)
        top = self._top + sum(self._heights[: cell.row]) + cell.row * (self._caption + self._gap)
        return left, top, left + self._width, top + self._heights[cell.row]

    def _draw_still(self, labels: Labels) -> Frame:
        """Everything that does not move."""
        image = Image.new("RGB", self.size, _BACKGROUND)
        for cell, box in zip(self._cells, self.boxes, strict=True):
            self._draw_caption(image, cell, box)
        size = min((_fitting_size(label, self._text, self._width) for label in labels.columns), default=0)
        for column, label in enumerate(labels.columns):
            middle = self._left + column * (self._width + self._gap) + self._width // 2
            _write(image, (middle, self._gap), label, size, _TEXT, "ma", self._width)
        self._draw_row_labels(image, labels)
        _write(
            image,
            (self._gap, self.size[1] - self._gap // 2),
            labels.footer,
            self._small,
            _DIM,
            "ld",
            self.size[0] - 2 * self._gap,
        )
        return np.asarray(image)

    def _draw_caption(self, image: Image.Image, cell: GridCell, box: Box) -> None:
        """The left part dim, the right part clear, both in one size that lets them fit."""
        y = box[3] + round(0.18 * self._text)
        between = round(0.5 * self._text)
        size = _fitting_size(cell.left + cell.right, round(0.9 * self._text), box[2] - box[0] - between)
        colour = _BRIGHT if cell.bright else _TEXT
        _write(image, (box[2], y), cell.right, size, colour, "ra", box[2] - box[0])
        room = box[2] - box[0] - between - round(_font(size, True).getlength(cell.right))
        _write(image, (box[0], y), cell.left, size, _BRIGHT if cell.bright else _DIM, "la", room)

    def _draw_row_labels(self, image: Image.Image, labels: Labels) -> None:
        room = self._left - 2 * self._gap
        for row, (small, name) in enumerate(labels.rows):
            middle = self._top + sum(self._heights[:row]) + row * (self._caption + self._gap) + self._heights[row] // 2
            _write(image, (self._gap, middle - 2), small, self._small, _DIM, "ld", room)
            _write(image, (self._gap, middle + 2), name, self._text, _TEXT, "la", room)
        y = self._gap
        for number, line in enumerate(labels.corner):
            size = self._text if number == 0 else self._small
            _write(image, (self._gap, y), line, size, _BRIGHT if number == 0 else _DIM, "la", room)
            y += round(1.35 * size)

    def _draw(self, clip: Clip, moment: int) -> Frame:
        picture = _to_width(clip.frame(moment), self._width)
        return _game_over(picture, self._text) if clip.over and moment >= len(clip.frames) else picture


def _png(picture: Frame) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=6)
    return file.getvalue()


def _to_width(picture: Frame, width: int) -> Frame:
    """Bring a picture to a width: enlarged, pixels stay what they are; shrunk, they are averaged."""
    if picture.shape[1] == width:
        return picture
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    way = Image.Resampling.NEAREST if picture.shape[1] < width else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, way))


def _game_over(picture: Frame, text: int) -> Frame:
    """Lay a band with the words where it hides least: below most games' scores, above most of what happens."""
    image = Image.fromarray(picture)
    width, middle, half = image.width, image.height // 4, round(0.85 * text)
    ImageDraw.Draw(image).rectangle((0, middle - half, width, middle + half), fill=_BACKGROUND)
    _write(image, (width // 2, middle), "game over", round(0.9 * text), _DIM, "mm", width)
    return np.asarray(image)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: there on every machine, and with more than the Latin letters."""
    from blip_rl.report.drawing import font_file  # matplotlib: half a second of every start, and only text needs it

    # Without the layout engine of the machine's own libraries texts are drawn alike everywhere.
    return ImageFont.truetype(font_file(bold), size, layout_engine=ImageFont.Layout.BASIC)


def _fitting_size(text: str, size: int, room: float) -> int:
    """The largest text size, up to ``size``, at which the text is at most ``room`` pixels wide; or the smallest."""
    while size > _SMALLEST_TEXT and _font(size, True).getlength(text) > room:
        size -= 1
    return size


def _write(
    image: Image.Image,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str,
    room: int,
) -> None:
    """Write a line no wider than ``room``: smaller if it must be, and at last cut.

    Edges are softened in a few shades, not in all there are: a GIF's colours are for the games.
    """
    if not text:
        return
    size = _fitting_size(text, size, room)
    font = _font(size, True)
    if font.getlength(text) > room:
        while text and font.getlength(text + "…") > room:
            text = text[:-1]
        text += "…"
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).text(place, text, fill=255, font=font, anchor=anchor)
    image.paste(colour, mask=mask.point([round(value / _SHADE) * _SHADE for value in range(256)]))
