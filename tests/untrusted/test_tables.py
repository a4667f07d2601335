"""Untrusted tables need no more memory and time than those that a run writes."""

import resource
import time

import pytest

from blip_rl.errors import UserError
from blip_rl.records import ReturnRow
from blip_rl.reporting.table import load_rows
from blip_rl.untrusted import tables
from blip_rl.untrusted.tables import table_rows


@pytest.fixture
def table(tmp_path):
    return tmp_path / "a.csv"


def rows(table, **options):
    return list(table_rows(table, **options)[1])


def test_rows_come_with_their_line_numbers(table):
    table.write_text('x,y\n1,2\n\n3,"a\nb"\n4\n5,6,7\n')
    assert table_rows(table)[0] == ["x", "y"]
    assert rows(table) == [
        (2, {"x": "1", "y": "2"}),
        (5, {"x": "3", "y": "a\nb"}),
        (6, {"x": "4", "y": None}),
        (7, {"x": "5", "y": "6", None: ["7"]}),
    ]
    table.write_text("")
    assert table_rows(table)[0] == rows(table) == []


def test_a_table_of_too_many_rows_is_refused(table, monkeypatch):
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    table.write_text("x\n1\n2\n3\n")
    assert [row["x"] for _, row in rows(table)] == ["1", "2", "3"]
    table.write_text("x\n1\n2\n3\n4\n")
    with pytest.raises(UserError, match="more than 3 rows"):
        rows(table)


@pytest.mark.parametrize("content", [b"x\n\xff\n", b"\xff\n", b"x\n" + b"1\n" * 9_000 + b"\xff\n"])
def test_text_that_is_not_utf_8_is_refused(table, content):
    table.write_bytes(content)
    with pytest.raises(UserError, match="not UTF-8 text"):
        rows(table)
    rows(table, errors="replace")


COSTLY = {
    "columns": (b"x\n", b",", b"\n", "more than 64 columns"),
    "names": (b"", b",", b"\n1\n", "more than 64 columns"),
    "blank lines": (b"x\n", b"\n", b"1\n", "more than 1,000 blank lines"),
    "lines of one row": (b'x\n"\n', b'",,,,,,,,,,,"\n', b"\n", "more than 1,000 lines"),
    "one word": (b"x\n", b"9", b"\n", "field larger"),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_a_costly_table_is_refused_with_little_time_and_memory(kind, table):
    """At 120 MB, one row of commas would take 3 GB, and empty lines 13 seconds."""
    before, repeated, after, message = COSTLY[kind]
    table.write_bytes(before + repeated * (30_000_000 // len(repeated)) + after)
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message):
        rows(table)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB


def test_many_rows_take_little_memory(table):
    """As dictionaries they would take 0.5 kB each."""
    table.write_text("env_steps,stage,task,episodes,mean_return\n" + "1000,1,a,1,2.5\n" * 200_000)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = load_rows(table, ReturnRow, [])
    assert len(rows) == sum(row.mean_return == 2.5 for row in rows) == 200_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 60_000  # kB
