"""CSV files of a bounded size, read row by row."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError
from blip_rl.untrusted.files import read_bytes

MOST_ROWS = 1_000_000
"""Of one table; a run over six games writes some twenty thousand, one with 1,000 episodes less than this."""
_MOST_BYTES = 128_000_000
_MOST_COLUMNS = 64
_MOST_BLANK_LINES = 1_000
_LONGEST_LINE = 1_000_000  # characters
_MOST_LINES = 1_000  # of one row; more than one only where a quote is not closed


def table_rows(path: Path, *, errors: str = "strict", strict: bool = False) -> tuple[list[str], Iterator[Any]]:
    """Open a CSV file with a line of column names.

    Args:
        path: The file.
        errors: What to do with bytes that are not UTF-8.
        strict: Whether quotes that do not match are an error.

    Returns:
        The names, and an iterator over (line number, row by column), which may raise what this function raises. As
        with :class:`csv.DictReader`, ``None`` is the key of the cells that a row has too many, and the value of those
        that it lacks.

    Raises:
        UserError: as :func:`~blip_rl.untrusted.files.read_bytes`; not UTF-8; no CSV; more rows, columns or blank lines
            than a run writes.
    """
    lines = _Lines(path, read_bytes(path, _MOST_BYTES), errors)
    reader = csv.DictReader(lines, strict=strict)
    with _as_user_errors(path, reader):
        return list(reader.fieldnames or ()), _rows(path, reader, lines)


def _rows(path: Path, reader: csv.DictReader[str], lines: _Lines) -> Iterator[tuple[int, dict[str, Any]]]:
    with _as_user_errors(path, reader):
        for row in itertools.islice(reader, MOST_ROWS):
            lines.since_row = 0
            yield reader.line_num, row
        if next(reader, None) is not None:
            raise UserError(f"'{path}' has more than {MOST_ROWS:,} rows: not what blip-rl writes")


@contextmanager
def _as_user_errors(path: Path, reader: csv.DictReader[str]) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UserError(f"'{path}' cannot be read: line {reader.line_num}: {error}") from error
    except UnicodeDecodeError:
        raise UserError(f"'{path}' cannot be read: not UTF-8 text") from None


class _Lines:
    """The lines of a file, checked before the CSV reader splits them into cells.

    Attributes:
        since_row: Lines read since this was last set to 0.
    """

    def __init__(self, path: Path, content: bytes, errors: str) -> None:
        self._path = path
        self._text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", errors, newline="")
        self._blank = 0
        self.since_row = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_LONGEST_LINE):
            self._blank += not line.strip("\r\n")
            self.since_row += 1
            if problem := self._problem(line):
                raise UserError(f"'{self._path}' has {problem}: not what blip-rl writes")
            yield line

    def _problem(self, line: str) -> str:
        if line.count(",") >= _MOST_COLUMNS:
            return f"a row of more than {_MOST_COLUMNS} columns"
        if self._blank > _MOST_BLANK_LINES:
            return f"more than {_MOST_BLANK_LINES:,} blank lines"
        if self.since_row > _MOST_LINES + _MOST_BLANK_LINES:
            return f"a row of more than {_MOST_LINES:,} lines: a quote that is not closed"
        return ""
