"""Comparison of agents over runs, and what a run costs."""

import numpy as np
import pytest

from blip_rl.core.comparison import performance_profile
from blip_rl.records import SpeedRow, columns
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.groups import group_runs
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.sections_comparison import comparison_section
from blip_rl.reporting.sections_cost import cost_section, training_seconds
from tests.reporting import report_runs as made


@pytest.fixture
def section(sketches, tmp_path):
    """Return the comparison of runs."""
    return lambda runs: comparison_section(group_runs([load_run(run) for run in runs]), FigureWriter(tmp_path / "p"))


def seeds(new_run, agent, numbers, **options):
    return [new_run(f"{agent}{seed}", agent=agent, seed=seed, bits=False, logs=False, **options) for seed in numbers]


def test_comparisons_need_three_finished_runs(section, new_run):
    few = seeds(new_run, "blip", range(2)) + seeds(new_run, "ewc", range(3), stages=2)
    assert section(few) == []
    (found,) = section([*few, *seeds(new_run, "finetune", range(3))])
    assert [figure.title for figure in found.figures] == ["Performance profile"]  # one agent: nothing to compare with


def test_profiles_and_probabilities_are_those_of_the_final_scores(section, new_run):
    (found,) = section(seeds(new_run, "blip", (0, 1, 2)) + seeds(new_run, "finetune", (1, 2, 3, 4)))
    profile, improvement = found.figures
    scores = np.array([[made.score(3, task, seed) / made.REFERENCE for task in range(3)] for seed in range(3)])
    thresholds, blip, _ = np.array(profile.data.table.rows).T
    np.testing.assert_array_equal(blip, performance_profile(scores, thresholds))
    ((first, second, probability, low, high, *games),) = improvement.data.table.rows
    assert (first, second, low, high) == ("blip", "finetune", None, None)
    # Scores grow with the seed: of 12 pairs blip wins (2, 1) and ties in (1, 1) and (2, 2).
    assert games == pytest.approx([2 / 12] * 3)
    assert probability == pytest.approx(2 / 12)
    assert improvement.alt.endswith("blip > finetune 0.167 (worst game 0.167)")


def test_many_agents_are_compared_with_the_first(section, new_run):
    agents = ("blip", "ewc", "finetune", "freeze", "gpm", "packnet")
    (found,) = section([run for agent in agents for run in seeds(new_run, agent, range(3), games=("boxing",))])
    assert [row[:2] for row in found.figures[1].data.table.rows] == [("blip", other) for other in agents[1:]]
    assert found.note == "Compared with blip only: there are 15 pairs."


def test_training_time_adds_up_the_stages(new_run):
    run = new_run("one")
    rows = [[500, 1, 100, 800], [1000, 1, 50, 800], [3000, 2, 200, 900]]
    made.write_table(run / "speed.csv", columns(SpeedRow), rows)
    assert training_seconds(load_run(run)) == pytest.approx(1000 / 50 + 2000 / 200)
    made.write_table(run / "speed.csv", columns(SpeedRow), rows[2:])  # the first stage is not recorded
    assert np.isnan(training_seconds(load_run(run)))


def test_costs_have_the_mean_and_the_worst_run(sketches, new_run, tmp_path):
    runs = [new_run(f"r{seed}", seed=seed) for seed in range(2)]
    for run, rate in zip(runs, (100, 300), strict=True):
        made.write_table(run / "speed.csv", columns(SpeedRow), [[3000, 1, rate, 8 * rate]])
    found = cost_section(group_runs([load_run(run) for run in runs]), FigureWriter(tmp_path / "p"))
    ((row,),) = (table.rows for table in found.tables)
    assert (row.title, row.remark) == ("blip", "mean of 2 seeds")
    assert row.cells == (
        ("20 s", "longest: 30 s"),
        ("3,000", ""),
        ("200", "slowest: 100"),
        ("1,600 MB", "highest: 2,400 MB"),
    )
