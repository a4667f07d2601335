"""Tests of curves over the runs of a group."""

from __future__ import annotations

import numpy as np
import pytest
import tomli_w

from blip_rl.reporting.groups import REPEATED, accumulated_series, group_runs, over_seeds
from blip_rl.reporting.normalising import rescale_observed
from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.scores import load_config
from tests.reporting import report_runs as made

# An agent that forgets nothing and plays kungfu from the start: episode k of four always has the same score. Boxing is
# learned from below random play, −0.2, to 0.5.
KUNGFU = (0.1, 0.2, 0.6, 0.7)


def frozen_run(run, periodic_games, truncated=0):
    config = load_config(run)
    config["evaluation"]["episodes"] = len(KUNGFU)
    (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    rows = []
    for steps, stage, phase, games, boxing in (
        (500, 1, "periodic", periodic_games, None),
        (1000, 1, "before", 4, None),
        (1000, 1, "after", 4, None),
        (1500, 2, "periodic", periodic_games, -0.2),
        (2000, 2, "before", 4, 0.5),
        (2000, 2, "after", 4, 0.5),
    ):
        ends = truncated if phase == "periodic" else 0
        rows += [[steps, stage, phase, "kungfu", k, KUNGFU[k], 9, ends, KUNGFU[k], "greedy"] for k in range(games)]
        if boxing is not None:
            rows += [[steps, stage, phase, "boxing", k, boxing, 9, 0, boxing, "greedy"] for k in range(games)]
    made.write_table(run / "scores.csv", made.SCORE_COLUMNS, rows)
    return load_run(run)


def lines_of(record):
    series = accumulated_series(group_runs([record])[0], 0)
    return [
        [(int(s), round(float(v), 6)) for s, v in zip(*one, strict=True)] for one in (*series.lines, *series.partial)
    ]


@pytest.mark.parametrize(
    ("games", "truncated", "line", "partial"),
    [
        # The first two episodes of kungfu are its worst: their mean, 0.15, is no loss against 0.4.
        (2, 0, [(1000, 0.4), (2000, 0.9)], [(500, 0.15), (1500, -0.05)]),
        (4, 1, [(1000, 0.4), (2000, 0.9)], [(500, 0.4), (1500, 0.2)]),
        (4, 0, [(500, 0.4), (1000, 0.4), (1500, 0.2), (2000, 0.9)], []),
    ],
    ids=["fewer episodes", "truncated episodes", "complete"],
)
def test_accumulated_curve_has_only_complete_evaluations(new_run, games, truncated, line, partial):
    run = frozen_run(new_run("r", games=("kungfu", "boxing")), games, truncated)
    assert lines_of(run) == [line, partial]


def test_rescaled_curves_keep_which_evaluations_are_complete(new_run):
    (record,) = rescale_observed([frozen_run(new_run("r", games=("kungfu", "boxing")), 2)])
    np.testing.assert_array_equal(record.scores.curves[0].complete, [False, True, False, True])


def test_a_seed_counts_once_and_its_longest_run_is_kept(new_run, sketches):
    paths = [new_run("short", stages=1), new_run("long"), new_run("again"), new_run("other", seed=1)]
    (group,) = group_runs([load_run(path) for path in paths])
    assert [run.path.name for run in group.runs] == ["long", "other"]
    found = write_report(paths, out=paths[0].parent / "page")
    assert [name for name, problem in found.problems if problem == REPEATED] == ["short", "again"]


def test_labels_are_unique(new_run):
    """Each pair differs in something, but what is shown of the first two is equal."""
    settings = [{"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 1, "b": 1, "c": 1, "d": 2}, {"a": 2, "b": 2, "c": 2, "d": 2}]
    runs = [load_run(new_run(str(at), settings={"method": one})) for at, one in enumerate(settings)]
    labels = [group.label for group in group_runs(runs)]
    assert len(set(labels)) == 3, labels


def test_a_seed_that_has_just_begun_does_not_hide_the_others():
    steps, begun = np.array([100, 200, 300]), (np.array([0]), np.array([0.0]))
    curves = [(steps, np.array([1.0, 2.0, 3.0]) + seed) for seed in range(3)]
    series = over_seeds("blip", 0, [*curves, begun])
    assert (series.centre.tolist(), len(series.lines)) == ([2.0, 3.0, 4.0], 3)
    assert len(over_seeds("blip", 0, [*curves[:2], begun]).lines) == 3, "too few for a mean without it"
    behind = (steps[:2], np.array([1.0, 2.0]))
    series = over_seeds("blip", 0, [*curves, behind])
    assert (series.steps.tolist(), len(series.lines)) == ([100, 200], 4), "one evaluation behind, it counts"
