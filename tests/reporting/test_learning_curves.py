"""Tests of training returns, of scores before the first step, and of task titles in the report."""

import re

import numpy as np

from blip_rl.reporting.groups import accumulated_series, group_runs, return_series, training_lines
from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.task import shown_title
from tests.reporting import report_runs as made

RETURNS = ["env_steps", "stage", "task", "episodes", "mean_return"]


def with_returns(path):
    """A run of three games with two rows for each of the first two."""
    rows = [
        [500, 1, "kungfu", 3, 1.5],
        [1000, 1, "kungfu", 2, 4.0],
        [1500, 2, "boxing", 9, -2.0],
        [2000, 2, "boxing", 1, 6],
    ]
    made.write_table(path / "returns.csv", RETURNS, rows)
    return path


def test_training_returns_are_read_by_task(new_run):
    (group,) = group_runs([load_run(with_returns(new_run("a"))), load_run(new_run("older", seed=1))])
    ((steps, values),) = training_lines(group, "kungfu")  # the older run has no returns.csv, which is no problem
    np.testing.assert_array_equal((steps, values), [[500, 1000], [1.5, 4.0]])
    ((steps, values),) = training_lines(group, "boxing")
    np.testing.assert_array_equal((steps, values), [[1500, 2000], [-2.0, 6.0]])
    assert training_lines(group, "krull") == ()
    assert not [problem for run in group.runs for problem in run.problems]


def test_page_draws_training_returns_and_names_the_action_selection(new_run, sketches, monkeypatch):
    from blip_rl.reporting import curves

    drawn, draw = [], curves.draw_training
    monkeypatch.setattr(curves, "draw_training", lambda ax, lines, *rest: drawn.append(lines) or draw(ax, lines, *rest))
    html = write_report([with_returns(new_run("a"))]).page.read_text(encoding="utf-8")
    assert sorted({len(lines) for lines in drawn}) == [0, 1]
    assert re.search(r"<dt>Actions in evaluations</dt><dd>greedy</dd>", html)


def test_page_warns_of_different_action_selections(new_run, sketches):
    other = new_run("b", agent="finetune")
    scores = other / "scores.csv"  # the recipe asks for greedy games, and there is none
    scores.write_text(scores.read_text().replace("greedy", "stochastic"))
    html = write_report([new_run("a"), other], out=other.parent / "page").page.read_text(encoding="utf-8")
    assert "Different action selection in evaluations: blip greedy; finetune stochastic." in html


def test_score_before_training_is_on_the_tasks_curve_but_not_in_the_sum(new_run):
    """It would change the sum at a boundary although nothing was learned or forgotten."""
    path = new_run("a")
    plain = accumulated_series(group_runs([load_run(path)])[0], 0)
    starts = [[stage * made.STEPS, stage + 1, "start", game, e, -5.0, 9, 0, -0.5, "greedy"]
              for stage, game in enumerate(("kungfu", "boxing", "krull")) for e in range(made.EPISODES)]  # fmt: skip
    with (path / "scores.csv").open("a") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in starts)
    (group,) = group_runs([load_run(path)])
    series = accumulated_series(group, 0)
    np.testing.assert_array_equal(series.steps, [0, *plain.steps])  # the first game's is all there is at step 0
    np.testing.assert_array_equal(series.centre, [-0.5, *plain.centre])
    for task, game in enumerate(("kungfu", "boxing", "krull")):
        curve = return_series(group, 0, game)
        assert (curve.steps[0], curve.centre[0]) == (task * made.STEPS, -5.0)


def test_long_or_empty_titles_are_replaced_by_names(new_run):
    titles = {"kungfu": "Kung-Fu Master", "boxing": "A title that is far too long for a chart"}
    run = load_run(new_run("a", titles=titles))
    assert [task.title for task in run.tasks] == ["Kung-Fu Master", "boxing", "Krull"]
    assert shown_title("krull", "") == "krull"
