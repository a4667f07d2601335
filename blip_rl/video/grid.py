"""Lay out clips in a grid with row and column labels and captions.

A grid is drawn frame by frame; :mod:`blip_rl.video.encode` writes it to a file.
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

_WIDTH = 160  # pixels of a clip at scale 1: the native Atari width
_BACKGROUND = (13, 17, 23)  # dark, as most games: suits light and dark pages
_TEXT = (240, 243, 246)
_DIM = (157, 167, 179)
_BRIGHT = (255, 200, 87)
_SMALLEST_TEXT = 9  # pixels
_SHADE = 51  # a fifth of 255
_HOLD_SECONDS = 1.0  # the last frame is held before the video loops


@dataclass(frozen=True)
class Clip:
    """The beginning of an episode.

    Attributes:
        frames: Frames at a constant rate, compressed as PNG (lossless and small).
        over: Whether the last frame is the end of the episode.
    """

    frames: tuple[bytes, ...]
    over: bool

    @staticmethod
    def of(frames: Iterable[Frame], over: bool) -> Clip:
        """Create a clip from frames."""
        return Clip(tuple(_png(frame) for frame in frames), over)

    def frame(self, number: int) -> Frame:
        """Return a frame by its index, counted from 0; indices past the end return the last frame."""
        with Image.open(io.BytesIO(self.frames[min(number, len(self.frames) - 1)])) as image:
            return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class GridCell:
    """A clip in a grid: its position and the caption under it, whose right part is emphasised.

    Attributes:
        bright: Whether the caption is highlighted.
    """

    clip: Clip
    left: str
    right: str
    row: int = 0
    column: int = 0
    bright: bool = False


@dataclass(frozen=True)
class Labels:
    """Text around the cells of a grid; empty labels take no space.

    Attributes:
        columns: One label above each column.
        rows: Two lines left of each row: a small one and a name.
        corner: Lines in the upper left corner; the first one is highlighted.
        footer: A line below the grid.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    corner: tuple[str, ...] = ()
    footer: str = ""


class Grid:
    """A layout of cells and labels that is drawn frame by frame.

    Attributes:
        fps: Frames per second of the clips and of the grid.
        size: (width, height) in pixels.
        boxes: Position of each clip, in the order of the cells.
    """

    def __init__(self, cells: tuple[GridCell, ...], labels: Labels, fps: float, scale: float = 1.0) -> None:
        """Compute the layout.

        Args:
            cells: At least one cell.
            labels: Text around the cells.
            fps: Frames per second.
            scale: Width of the clips: 1 is 160 pixels, the native Atari width. All clips are resized to this width.
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
        """Return the number of frames: those of the longest clip, then its held last frame."""
        return max(len(cell.clip.frames) for cell in self._cells) + round(_HOLD_SECONDS * self.fps)

    def frame(self, number: int) -> Frame:
        """Draw a frame by its index, counted from 0; shorter clips stay at their last frame."""
        frame = self._background.copy()
        for index, (cell, (left, top, right, bottom)) in enumerate(zip(self._cells, self.boxes, strict=True)):
            # The index after the last frame shows the "game over" mark.
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
        """Return the height of each row: that of its tallest clip."""
        heights = [0] * (1 + max(cell.row for cell in self._cells))
        for cell in self._cells:
            height, width = cell.clip.frame(0).shape[:2]
            heights[cell.row] = max(heights[cell.row], max(1, round(height * self._width / width)))
        return heights

    def _label_width(self, labels: Labels) -> int:
        """Return the width of the row labels, including the gap next to them."""
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
        """Draw everything that is the same in all frames."""
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
        """Draw a caption: left part dim, right part bright, in a common text size that fits."""
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
    """Resize a frame to a width: nearest neighbour when enlarging, averaging when shrinking."""
    if picture.shape[1] == width:
        return picture
    size = (width, max(1, round(picture.shape[0] * width / picture.shape[1])))
    way = Image.Resampling.NEAREST if picture.shape[1] < width else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, way))


def _game_over(picture: Frame, text: int) -> Frame:
    """Draw a band with "game over" in the upper quarter: below most score displays, above most of the action."""
    image = Image.fromarray(picture)
    width, middle, half = image.width, image.height // 4, round(0.85 * text)
    ImageDraw.Draw(image).rectangle((0, middle - half, width, middle + half), fill=_BACKGROUND)
    _write(image, (width // 2, middle), "game over", round(0.9 * text), _DIM, "mm", width)
    return np.asarray(image)


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib ships: available on every machine, with non-Latin glyphs."""
    from blip_rl.reporting.drawing import font_file  # imports matplotlib (0.5 s), needed for text only

    # The basic layout engine renders text identically on all machines; Raqm depends on system libraries.
    return ImageFont.truetype(font_file(bold), size, layout_engine=ImageFont.Layout.BASIC)


def _fitting_size(text: str, size: int, room: float) -> int:
    """Return the largest text size up to ``size`` at which the text fits into ``room`` pixels, or the minimum size."""
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
    """Draw a line of text no wider than ``room`` pixels: shrink it if necessary, then truncate it.

    Antialiasing is limited to a few shades, to leave the colours of a GIF palette to the games.
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
