"""Encode videos: GIF and WebP with Pillow, MP4 with the optional package av."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from blip_rl.errors import UserError
from blip_rl.extras import install_command
from blip_rl.storage.atomic import replacing

if TYPE_CHECKING:
    from blip_rl.tasks.pictures import Frame

FORMATS = ("gif", "mp4", "webp")
_MAX_COLOURS = 255  # of 256: Pillow needs one entry for unchanged (transparent) pixels
_SAMPLED_FRAMES = 24
_LONGEST_WEBP_SIDE = 16_383
_GIF_TICKS_PER_SECOND, _WEBP_TICKS_PER_SECOND = 100, 1000  # resolution of frame durations


class Movie(Protocol):
    """A video that can be encoded: frames of one size at a constant frame rate."""

    fps: float

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def frame(self, number: int) -> Frame:
        """Return a frame by its index, counted from 0."""
        ...


def check_format(file_format: str) -> None:
    """Check that a video format is supported and its package is installed.

    Raises:
        UserError: unknown format, or its package is not installed.
    """
    if file_format not in FORMATS:
        raise UserError(f"format {file_format!r}: expected one of {', '.join(FORMATS)}")
    if file_format == "mp4" and importlib.util.find_spec("av") is None:
        raise UserError(
            f"format 'mp4' needs the package av: {install_command('video')} (gif and webp need no extra package)"
        )


def save(movie: Movie, path: Path) -> None:
    """Encode a movie as an endlessly looping video file. The output is deterministic: same frames, same bytes.

    The file is written to a temporary name and renamed atomically; an existing file is replaced.

    Args:
        movie: A movie with at least one frame.
        path: Output file; its suffix selects the format. Parent folders are created.

    Raises:
        UserError: as :func:`check_format`, or the frames are too large for the format.
    """
    file_format = path.suffix.removeprefix(".")
    check_format(file_format)
    if file_format == "webp":
        _check_webp(movie)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        {"gif": _save_gif, "webp": _save_webp, "mp4": _save_mp4}[file_format](movie, beside)


def _frames(movie: Movie) -> Iterator[Frame]:
    return (movie.frame(number) for number in range(len(movie)))


def _durations(movie: Movie, ticks_per_second: int) -> list[int]:
    """Return the duration of each frame in ticks, rounded so that the durations sum to the length of the movie."""
    ends = [round(ticks_per_second * number / movie.fps) for number in range(len(movie) + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _save_gif(movie: Movie, path: Path) -> None:
    """Write a GIF with one palette for all frames, which avoids flicker; Pillow stores only changed regions."""
    palette, index_of = _palette(movie)
    images = (_indexed(index_of[_codes(frame)], palette) for frame in _frames(movie))
    milliseconds = [1000 // _GIF_TICKS_PER_SECOND * ticks for ticks in _durations(movie, _GIF_TICKS_PER_SECOND)]
    next(images).save(
        path, "GIF", save_all=True, append_images=images, duration=milliseconds, loop=0, optimize=True, disposal=1
    )


def _indexed(indices: npt.NDArray[np.uint8], palette: bytes) -> Image.Image:
    image = Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
    image.putpalette(palette)
    return image


def _codes(picture: Frame) -> npt.NDArray[np.int32]:
    """Return each RGB colour as one integer below 2²⁴."""
    wide = picture.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _palette(movie: Movie) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """Compute the palette of a movie: exact up to 255 colours, otherwise the most frequent colours.

    Returns:
        The palette with three bytes per entry, and an array of shape (2²⁴,): colour code → palette index.
    """
    seen = np.zeros(2**24, dtype=np.bool_)
    for frame in _frames(movie):
        seen[_codes(frame)] = True
    used = np.flatnonzero(seen)
    kept = used if used.size <= _MAX_COLOURS else _most_frequent(movie, used)
    index_of = np.zeros(2**24, dtype=np.uint8)
    colours = _channels(kept)
    for some in np.array_split(used, 1 + used.size // 4096):
        distances = ((_channels(some)[:, None] - colours[None]) ** 2).sum(axis=2)
        index_of[some] = distances.argmin(axis=1)
    return colours.astype(np.uint8).tobytes(), index_of


def _most_frequent(movie: Movie, used: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the 255 most frequent colours in a sample of frames spread evenly over the movie."""
    counts = np.zeros(2**24, dtype=np.int64)
    for number in np.unique(np.linspace(0, len(movie) - 1, _SAMPLED_FRAMES).astype(int)).tolist():
        codes, found = np.unique(_codes(movie.frame(number)), return_counts=True)
        counts[codes] += found
    return np.sort(used[np.argsort(-counts[used], kind="stable")[:_MAX_COLOURS]])


def _channels(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], axis=1)


def _check_webp(movie: Movie) -> None:
    height, width, _ = movie.frame(0).shape
    if max(width, height) > _LONGEST_WEBP_SIDE:
        raise UserError(
            f"the video is {width:,} × {height:,} pixels: webp allows at most {_LONGEST_WEBP_SIDE:,} a side (choose a "
            "smaller scale, fewer games or stages, or mp4)"
        )


def _save_webp(movie: Movie, path: Path) -> None:
    images = (Image.fromarray(frame) for frame in _frames(movie))
    next(images).save(
        path,
        "WEBP",
        save_all=True,
        append_images=images,
        duration=_durations(movie, _WEBP_TICKS_PER_SECOND),
        loop=0,
        lossless=True,
    )


def _save_mp4(movie: Movie, path: Path) -> None:
    """Write H.264 in yuv420p, which all browsers play; it requires an even width and height."""
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # For deterministic output: one thread, and no macroblock tree (mbtree), whose decisions occasionally depend on
        # uninitialised memory.
        options = {"crf": "20", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(movie.fps).limit_denominator(1000), options=options)
        height, width = (side + side % 2 for side in movie.frame(0).shape[:2])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in _frames(movie):
            padded = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        container.mux(stream.encode())
