"""Reader for CSV files of bounded size."""

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
"""Maximum rows of a table; a run over six games writes about 20,000."""
MOST_BYTES = 128_000_000
"""Maximum size of a table."""
_MOST_COLUMNS = 64
_MOST_BLANK_LINES = 1_000
_LONGEST_LINE = 1_000_000  # characters
_MOST_LINES = 1_000  # of one row; more than one only where a quote is not closed


def table_rows(path: Path, *, errors: str = "strict", strict: bool = False) -> tuple[list[str], Iterator[Any]]:
    """Open a CSV file with a header line.

    Args:
        path: The file.
        errors: Error handling of :meth:`bytes.decode` for bytes that are not UTF-8.
        strict: Whether malformed quoting is an error.

    Returns:
        The column names, and an iterator over (line number, row by column), which may raise the same errors. As with
        :class:`csv.DictReader`, surplus cells of a row have the key ``None`` and missing cells the value ``None``.

    Raises:
        UserError: As :func:`~blip_rl.untrusted.files.read_bytes`; not UTF-8; invalid CSV; too many rows, columns or
            blank lines.
    """
    lines = _Lines(path, read_bytes(path, MOST_BYTES), errors)
    reader = csv.DictReader(lines, strict=strict)
    with _as_user_errors(path, reader):
        return list(reader.fieldnames or ()), _rows(path, reader, lines)


def _rows(path: Path, reader: csv.DictReader[str], lines: _Lines) -> Iterator[tuple[int, dict[str, Any]]]:
    with _as_user_errors(path, reader):
        for row in itertools.islice(reader, MOST_ROWS):
            lines.since_row = 0
            yield reader.line_num, row
        if next(reader, None) is not None:
            raise UserError(f"'{path}' has more than {MOST_ROWS:,} rows: not a table that blip-rl wrote")


@contextmanager
def _as_user_errors(path: Path, reader: csv.DictReader[str]) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UserError(f"'{path}' cannot be read: line {reader.line_num}: {error}") from error
    except UnicodeDecodeError:
        raise UserError(f"'{path}' cannot be read: not UTF-8 text") from None


class _Lines:
    """Iterates over the lines of a file and checks them before the CSV reader splits them into cells.

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
                raise UserError(f"'{self._path}' has {problem}: not a table that blip-rl wrote")
            yield line

    def _problem(self, line: str) -> str:
        if line.count(",") >= _MOST_COLUMNS:
            return f"a row of more than {_MOST_COLUMNS} columns"
        if self._blank > _MOST_BLANK_LINES:
            return f"more than {_MOST_BLANK_LINES:,} blank lines"
        if self.since_row > _MOST_LINES + _MOST_BLANK_LINES:
            return f"a row of more than {_MOST_LINES:,} lines: a quote that is not closed"
        return ""
