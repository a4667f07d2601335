"""The numbers behind charts: tables in the page and CSV files."""

import base64
import csv
import io

import numpy as np

from blip_rl.core.intervals import estimate
from blip_rl.reporting.chart_data import ChartData, estimate_rows, series_data, training_rows
from blip_rl.reporting.figures import DataFile
from blip_rl.reporting.groups import group_runs, over_seeds
from blip_rl.reporting.run_record import load_run

STEPS = np.array([10.0, 20.0])


def test_csv_has_ten_digits_and_empty_cells_for_what_is_unknown():
    data = ChartData(("game", "value", "steps"), (("a, b", 1 / 3, 2000), ("c", float("nan"), None)))
    assert data.csv == 'game,value,steps\n"a, b",0.3333333333,2000\nc,,\n'
    assert data.shown == [["a, b", "0.333", "2,000"], ["c", "–", "–"]]


def test_names_that_a_spreadsheet_would_run_are_escaped():
    data = ChartData(("game", "value"), (("=1+1", -2.0),))
    assert data.csv.splitlines()[1] == "'=1+1,-2"
    assert data.shown == [["=1+1", "−2"]]


def test_a_data_uri_holds_the_csv_file():
    file = DataFile("x.csv", ChartData(("game",), (("Ms. Pac-Man\udcff",),)))
    kind, _, content = file.uri.partition(";base64,")
    assert kind == "data:text/csv;charset=utf-8"
    assert list(csv.reader(io.StringIO(base64.b64decode(content).decode()))) == [["game"], ["Ms. Pac-Man\\udcff"]]


def test_curves_of_several_seeds_have_their_mean_interval_and_runs():
    series = over_seeds("blip", 0, [(STEPS, np.array([1.0, 2.0]) + seed) for seed in range(3)])
    data = series_data([series], "return", [("blip", "training episodes, run 1", 5, 0.5, None, None)])
    assert data.columns == ("agent", "kind", "steps", "return", "low", "high")
    low, high = series.low[0], series.high[0]
    assert data.rows[0] == ("blip", "mean", 10, 2.0, low, high)
    assert data.rows[2:4] == (("blip", "run 1", 10, 1.0, None, None), ("blip", "run 1", 20, 2.0, None, None))
    assert data.rows[-1][1] == "training episodes, run 1"
    assert len(data.rows) == 2 + 3 * 2 + 1


def test_an_estimate_of_one_run_is_that_run():
    assert estimate_rows("ewc", estimate([0.5])) == [("ewc", "run", 0.5, None, None)]
    kinds = [kind for _, kind, *_ in estimate_rows("ewc", estimate([0.5, 0.6, 0.7]), "worst game")]
    assert kinds == ["worst game, mean", "worst game, run 1", "worst game, run 2", "worst game, run 3"]


def test_training_returns_are_those_of_the_game(new_run):
    run = new_run("one")
    (run / "returns.csv").write_text(
        "env_steps,stage,task,episodes,mean_return\n500,1,kungfu,2,3.5\n1500,2,boxing,1,9\n"
    )
    (group,) = group_runs([load_run(run)])
    assert training_rows(group, "kungfu") == [("blip", "training episodes, run", 500, 3.5, None, None)]
