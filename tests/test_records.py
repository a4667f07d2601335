"""One schema for writing and reading a table."""

import pytest

from blip_rl.records import BitsRow, PlasticityRow, ReturnRow, ScoreRow, SpeedRow, cells, columns, score_row

SCORE = ScoreRow(100, 1, "after", "pong", 3, -20.5, 10, True, None, "greedy")
TEXTS = dict(zip(columns(ScoreRow), cells(SCORE), strict=True))


@pytest.mark.parametrize("normalised", [None, 0.25])
@pytest.mark.parametrize("truncated", [False, True])
def test_a_score_is_read_as_it_was_written(truncated, normalised):
    row = ScoreRow(100, 1, "periodic", "pong", 3, -20.5, 10, truncated, normalised, "stochastic")
    assert score_row(dict(zip(columns(ScoreRow), cells(row), strict=True))) == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"return": "many"}, "return = 'many': Input should be a valid number"),
        ({"truncated": "2"}, "truncated = '2': Input should be a valid boolean"),
        ({"phase": "later"}, "phase = 'later': Input should be 'start', 'periodic', 'before' or 'after'"),
        ({"seed": "9" * 5_000}, f"seed = '{'9' * 80}': Unable to parse"),
        ({"actions": None}, "actions = 'None': Input should be a valid string"),
        ({None: ["more"]}, "None = "),
    ],
)
def test_a_damaged_row_is_refused_with_its_column(change, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        score_row({**TEXTS, **change})
    assert str(caught.value).startswith(message)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"^return: Field required$"):
        score_row({name: text for name, text in TEXTS.items() if name != "return"})


def test_columns_and_cells_of_the_other_tables():
    for row, expected in (
        (BitsRow(1, "fc1", "weight", 3, 40), "1,fc1,weight,3,40"),
        (PlasticityRow(10, 1, "before", "fc1", 0.5, 2.0, 0.1, None), "10,1,before,fc1,0.5,2.0,0.1,"),
        (SpeedRow(10, 1, 100.5, 200.0), "10,1,100.5,200.0"),
        (ReturnRow(10, 1, "pong", 2, 1.5), "10,1,pong,2,1.5"),
    ):
        assert ",".join(cells(row)) == expected
        assert len(columns(type(row))) == len(cells(row))
