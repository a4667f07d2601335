"""Readers for text, JSON and TOML of bounded size, and a check of folders for outside links, pipes and devices."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from blip_rl.errors import UserError

MOST_TASKS = 250
"""Maximum number of tasks of a run. Figures and matrices grow with its square; ale-py has about 100 ROMs."""
_MOST_TEXT_BYTES = 1_000_000
_MOST_JSON_BYTES = 4_000_000
_MOST_JSON_VALUES = 500_000
_MOST_FILES = 100_000
_DEEPEST = 32
_MOST_DOTS = 100  # in a line of TOML: tomllib's time grows with the square of a dotted key's parts


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        UserError: It is missing, not readable or not a regular file: opening a pipe would block until it has a writer,
            and a device may be endless.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UserError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"'{path}' is not a file: expected one, not a folder, a pipe or a device")
    try:
        with os.fdopen(descriptor, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file.

    Raises:
        UserError: As :func:`open_regular`, or the file is larger than ``most`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"'{path}' is larger than {most:,} bytes: not a file that blip-rl wrote")
    return content


def read_text(path: Path, most: int = _MOST_TEXT_BYTES, *, errors: str = "strict") -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Args:
        path: The file.
        most: Maximum size in bytes.
        errors: Error handling of :meth:`bytes.decode` for bytes that are not UTF-8.

    Raises:
        UserError: As :func:`read_bytes`, or the file is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig", errors)
    except UnicodeDecodeError:
        raise UserError(f"'{path}' cannot be read: not UTF-8 text") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: As :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, _MOST_JSON_BYTES), f"'{path}' cannot be read")


def parse_json(text: str, name: str) -> Any:
    """Parse JSON.

    Args:
        text: JSON. Its values are counted first, because a parsed value may take 30 times the memory of its text.
        name: Name of the source in messages.

    Raises:
        UserError: Invalid JSON, nested too deeply, more than 500,000 values, or an integer of more than 64 bits.
    """
    if sum(text.count(mark) for mark in "[{,") > _MOST_JSON_VALUES:
        raise UserError(f"{name}: more than {_MOST_JSON_VALUES:,} values: expected a few thousand")
    return parsed(name, "JSON", json.loads, text)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: As :func:`read_text` and :func:`parse_toml`.
    """
    return parse_toml(read_text(path), f"'{path}' cannot be read")


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: TOML of at most 1 MB.
        name: Name of the source in messages.

    Raises:
        UserError: Invalid TOML, nested too deeply, or an integer of more than 64 bits.
    """
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise UserError(f"{name}: a line with more than {_MOST_DOTS} dots: expected tables and lists of a few")
    found: dict[str, Any] = parsed(name, "TOML", tomllib.loads, text)
    return found


def parsed(name: str, kind: str, parse: Callable[[str], Any], text: str) -> Any:
    """Parse a text and check the nesting depth and integers of the result.

    Args:
        name: Name of the source in messages.
        kind: Name of the format in messages.
        parse: The parser; raises ``ValueError`` for invalid text.
        text: The text.

    Raises:
        UserError: Invalid text, nested too deeply, or an integer of more than 64 bits.
    """
    try:
        found = parse(text)
    except RecursionError:
        raise UserError(f"{name}: nested too deeply: expected at most {_DEEPEST} tables in each other") from None
    except ValueError as error:
        raise UserError(f"{name}: not valid {kind}: {error}") from None
    check_plain(found, name)
    return found


def check_plain(values: Any, name: str) -> None:
    """Check that parsed values are not nested too deeply and hold no integers of more than 64 bits.

    Raises:
        UserError: They are or do; recursion, or formatting a huge integer, would fail later.
    """
    level, depth = [values], 0
    while level:
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in level):
            raise UserError(f"{name}: a whole number of more than 64 bits: expected a smaller one")
        if depth > _DEEPEST:
            raise UserError(f"{name}: nested too deeply: expected at most {_DEEPEST} tables in each other")
        level, depth = [inner for value in level for inner in _inside(value)], depth + 1


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def check_contained(folder: Path) -> None:
    """Check that a run folder holds only files, folders, and links to targets inside it.

    The folder itself may be a link, since the user chose it.

    Raises:
        UserError: A link leads out, an entry is a pipe, a socket or a device, or there are too many files.
    """
    root, waiting, seen = os.path.realpath(folder), [str(folder)], 0
    while waiting:
        for entry in _entries(waiting.pop()):
            seen += 1
            if seen > _MOST_FILES:
                raise UserError(f"'{folder}' holds more than {_MOST_FILES:,} files: expected a run's folder")
            if entry.is_symlink():
                _check_link(entry, root)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                _check_kind(entry)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # removed meanwhile by a running training, or unreadable: reported when it is read
        return []


def _check_link(entry: os.DirEntry[str], root: str) -> None:
    target = os.path.realpath(entry.path)
    if target != root and not target.startswith(root.rstrip(os.sep) + os.sep):
        raise UserError(
            f"'{entry.path}' is a link that leads out of the run's folder: what a run reads and writes stays inside it "
            "(put what the link points to in its place)"
        )


def _check_kind(entry: os.DirEntry[str]) -> None:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise UserError(f"'{entry.path}' is a pipe, a socket or a device: expected only files in a run's folder")


def printable(text: str) -> str:
    """Escape control characters and lone surrogates of untrusted text, so that a terminal can show it safely."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter).strip("'\"") for letter in text)
