"""Values that stable-baselines3's logger does not have: films and text files. Its own outputs ignore them."""

from __future__ import annotations

from dataclasses import dataclass

NOT_AS_TEXT = ("stdout", "log", "json", "csv")
"""Outputs that callbacks may add to the logger, and that cannot show what is neither a number nor a word."""


@dataclass(frozen=True)
class Film:
    """An encoded GIF; ``Video`` of stable-baselines3 holds frames, which it encodes with another package.

    Attributes:
        encoded: The file's bytes.
        size: (width, height) in pixels.
    """

    encoded: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Document:
    """A text file.

    Attributes:
        name: File name.
        text: Content.
        markdown: The text as TensorBoard shows it; empty: it is not shown there.
    """

    name: str
    text: str
    markdown: str = ""
