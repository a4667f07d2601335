"""Tests of the tables of a run: rows are read as they were written, and damaged rows are named."""

import pytest

from blip_rl.errors import UserError
from blip_rl.records import BitsRow, PlasticityRow, ReturnRow, ScoreRow, SpeedRow, cells, columns, read_rows

ROWS = (
    ScoreRow(100, 1, "after", "pong", 3, -20.5, 10, True, None, "greedy"),
    ScoreRow(100, 1, "start", "pong", 3, -20.5, 10, False, 0.25, "stochastic"),
    BitsRow(1, "fc1", "weight", 3, 40),
    PlasticityRow(10, 1, "before", "fc1", 0.5, 2.0, 0.1, None),
    PlasticityRow(10, 1, "periodic", "fc1", 0.5, 2.0, 0.1, 17.5),
    SpeedRow(10, 1, 100.5, 200.0),
    ReturnRow(10, 1, "pong", 2, 1.5),
)


def table(path, row, **changes):
    texts = dict(zip(columns(type(row)), cells(row), strict=True)) | changes
    path.write_text(f"{','.join(texts)}\n{','.join(texts.values())}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("row", ROWS)
def test_row_is_read_as_written(tmp_path, row):
    assert list(read_rows(table(tmp_path / "table.csv", row), type(row))) == [(2, row)]


def test_score_is_written_in_the_order_of_the_file_format():
    assert ",".join(columns(ScoreRow)) == (
        "env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions"
    )
    assert ",".join(cells(ROWS[0])) == "100,1,after,pong,3,-20.5,10,1,,greedy"


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (ROWS[0], {"return": "many"}, "return = 'many': Input should be a valid number"),
        (ROWS[0], {"truncated": "2"}, "truncated = '2': Input should be a valid boolean"),
        (ROWS[0], {"phase": "later"}, "phase = 'later': Input should be 'start', 'periodic', 'before' or 'after'"),
        (ROWS[0], {"seed": "9" * 5_000}, f"seed = '{'9' * 80}': Unable to parse"),
        (ROWS[0], {"actions": "greed"}, "actions = 'greed': Input should be 'greedy' or 'stochastic'"),
        (ROWS[0], {"env_steps": f"1{'0' * 16}"}, "env_steps = '10000000000000000': Input should be less than or equal"),
        (ROWS[0], {"task": "a,b"}, "11 cells: expected 10"),
        (ROWS[2], {"frozen_bits": "40"}, "frozen_bits = '40': Input should be less than or equal to 22"),
        (ROWS[2], {"count": "0"}, "count = '0': Input should be greater than or equal to 1"),
        (ROWS[5], {"steps_per_second": "inf"}, "steps_per_second = 'inf': Value error, expected a number from"),
    ],
)
def test_damaged_row_is_named_with_its_column_and_value(tmp_path, row, change, message):
    ((line, error),) = read_rows(table(tmp_path / "table.csv", row, **change), type(row))
    assert (line, type(error)) == (2, ValueError)
    assert str(error).startswith(message)
    assert "\n" not in str(error)


def test_incomplete_row_is_named(tmp_path):
    path = table(tmp_path / "table.csv", ROWS[4])
    path.write_text(path.read_text() + "20,1,per", encoding="utf-8")
    _, (line, error) = read_rows(path, PlasticityRow)
    assert (line, str(error)) == (3, "3 of 8 cells: an incomplete row")


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "table.csv").write_text("env_steps,stage\n")
    with pytest.raises(UserError, match=r"table.csv' has no column steps_per_second, peak_memory_mb"):
        list(read_rows(tmp_path / "table.csv", SpeedRow))
