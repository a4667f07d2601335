"""Tests of the data in the charts of plasticity and speed."""

from __future__ import annotations

import numpy as np
import pytest

from blip_rl.records import PlasticityRow, SpeedRow, columns
from blip_rl.reporting import curves
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.groups import group_runs, over_seeds
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.sections_cost import cost_section
from blip_rl.reporting.sections_network import plasticity_section
from tests.reporting import report_runs as made

# At 1000 steps a consolidation freezes 17 of 20 bits; then the next game is evaluated before its first step.
MEASURED = [
    (500, 1, "periodic", 20.0),
    (1000, 1, "before", 20.0),
    (1000, 1, "after", 3.0),
    (1000, 2, "periodic", 4.0),
    (1500, 2, "periodic", 3.0),
    (2000, 2, "before", 3.0),
    (2000, 2, "after", 1.0),
]


def with_measured(run, shift=0.0):
    rows = [
        [steps, stage, phase, layer, free / 40, free / 2, free / 10, free + shift + at]
        for steps, stage, phase, free in MEASURED
        for at, layer in enumerate(("conv1", "fc1"))
    ]
    made.write_table(run / "plasticity.csv", columns(PlasticityRow), rows)
    return run


@pytest.fixture
def drawn(sketches, monkeypatch, tmp_path):
    """Return chart data: metric → series."""
    found = {}
    original = curves.draw_curves

    def note(ax, series, theme, ylabel):
        found[ylabel] = series
        return original(ax, series, theme, ylabel)

    monkeypatch.setattr(curves, "draw_curves", note)

    def call(section, *runs):
        section(group_runs([load_run(run) for run in runs]), FigureWriter(tmp_path / "pictures"))
        return found

    return call


@pytest.mark.parametrize(
    ("what", "scale"),
    [("free bits", 1), ("dormant units", 1 / 40), ("effective rank", 1 / 2), ("gradient norm", 1 / 10)],
)
def test_values_before_and_after_a_consolidation_are_two_points(drawn, new_run, what, scale):
    conv1, fc1 = drawn(plasticity_section, with_measured(new_run("one")))[what]
    assert (conv1.label, fc1.label) == ("conv1", "fc1")
    ((steps, values),) = conv1.lines
    assert steps.tolist() == [500, 1000, 1000, 1000, 1500, 2000, 2000]
    np.testing.assert_allclose(values, [free * scale for *_, free in MEASURED])


def test_seeds_are_averaged_point_by_point(drawn, new_run):
    runs = [with_measured(new_run(f"r{seed}", seed=seed), shift=float(seed)) for seed in range(3)]
    (series,) = drawn(plasticity_section, *runs)["free bits"]
    assert series.steps.tolist() == [500, 1000, 1000, 1000, 1500, 2000, 2000]
    np.testing.assert_allclose(series.centre, [free + 1.5 for *_, free in MEASURED])  # mean of two layers, three seeds
    assert np.all(series.low < series.centre)


def test_points_that_one_run_lacks_are_left_out():
    whole = (np.array([1.0, 2.0, 2.0, 3.0]), np.array([9.0, 8.0, 3.0, 2.0]))
    part = (np.array([1.0, 2.0]), np.array([9.0, 8.0]))
    series = over_seeds("blip", 0, [whole, whole, part])
    assert (series.steps.tolist(), series.centre.tolist()) == ([1, 2], [9, 8])


def test_later_of_two_speeds_at_the_same_step_is_shown(drawn, new_run):
    run = new_run("one")
    made.write_table(run / "speed.csv", columns(SpeedRow), [[10, 1, 100, 800], [20, 1, 300, 900], [20, 1, 200, 950]])
    found = drawn(cost_section, run)
    for what, expected in (("steps per second", [100, 200]), ("peak memory, MB", [800, 950])):
        ((steps, values),) = found[what][0].lines
        assert (steps.tolist(), values.tolist()) == ([10, 20], expected)
