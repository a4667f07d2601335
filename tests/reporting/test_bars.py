"""Tests of the bar charts: bars, points and labels of the figure, not its pixels."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blip_rl.core.intervals import estimate
from blip_rl.reporting import bars
from blip_rl.reporting.style import LIGHT


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(4.8, 2.8)).add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_estimates_are_points_a_mean_and_an_interval(ax):
    three, one = estimate([0.1, 0.2, 0.6]), estimate([0.4])
    bars.draw_estimates(ax, ["blip", "finetune"], [0, 3], [three, one], LIGHT)
    points, bar, mean, single, zero = ax.lines
    assert list(points.get_xdata()) == [0.1, 0.2, 0.6]
    assert tuple(bar.get_xdata()) == three.interval
    assert list(mean.get_xdata()) == [three.centre]
    assert (list(single.get_xdata()), list(single.get_ydata())) == ([0.4], [1])
    assert single.get_color() == LIGHT.series[3]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["blip", "finetune"]
    low, high = ax.get_xlim()
    assert low < 0 < 0.6 < high
    assert list(zero.get_xdata()) == [0, 0]


def test_each_line_of_a_long_label_is_shown(ax):
    """A pair of agents with long names must not be cut to the first one."""
    label = f"{'a' * 29}\n> {'b' * 28}"
    bars.draw_estimates(ax, [label], [0], [estimate([0.5])], LIGHT)
    assert [text.get_text() for text in ax.get_yticklabels()] == [label]


def test_worst_game_is_an_open_marker(ax):
    bars.draw_estimates(ax, ["blip"], [0], [estimate([0.5])], LIGHT, worst=[estimate([-0.2])])
    (marker,) = [line for line in ax.lines if line.get_markerfacecolor() == "none"]
    assert list(marker.get_xdata()) == [-0.2]
    assert ax.get_xlim()[0] < -0.2


def test_budget_of_many_tasks_is_shaded_and_names_the_first_and_the_last(ax):
    names = [f"game {n}" for n in range(9)]
    bars.draw_budget(ax, ["fc1"], np.arange(1.0, 10)[:, None], 20, names, LIGHT)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["game 0", "game 8"]
    assert len({bar.get_facecolor() for bar in ax.patches[1:]}) == 9


@pytest.mark.parametrize(("value", "is_score"), [(0.02, True), (-0.01, False), (0.01, False)])
def test_small_value_does_not_fill_the_axis(ax, value, is_score):
    bars.draw_estimates(ax, ["blip"], [0], [estimate([value])], LIGHT, is_score=is_score)
    low, high = ax.get_xlim()
    assert low < min(0, value) <= max(0, value) < high
    assert abs(value) / (high - low) < 0.05
    assert (low < 1 < high) == is_score
    assert ([1, 1] in [list(line.get_xdata()) for line in ax.lines]) == is_score


def test_budget_stacks_the_bits_of_each_task_and_names_the_free_bits(ax):
    frozen = np.array([[2.0, 4.0, 2.0], [5.0, 4.5, np.nan]])  # the last was not counted after the second task
    bars.draw_budget(ax, ["conv1", "fc1", "fc2"], frozen, 20, ["Boxing", "Krull"], LIGHT)
    pieces = [(bar.get_x(), bar.get_width()) for bar in ax.patches[3:]]  # after the three full bars
    assert pieces == [(0, 2.0), (0, 4.0), (0, 2.0), (2.0, 3.0), (4.0, 0.5), (2.0, 0.0)]
    assert texts(ax) == ["15.0 free", "15.5 free", "18.0 free"]
    assert all(text.xy[0] == 20 and text.get_ha() == "left" for text in ax.texts)  # beside the bars, not on them
    assert ax.get_xlim() == (0, 20)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Boxing", "Krull"]


def test_consolidation_loss_is_a_bar_for_the_mean_and_a_point_per_game(ax):
    losses = np.array([[0.1, np.nan], [0.3, -0.1]])
    bars.draw_consolidation_loss(ax, ["Boxing", "Krull"], [(0, "blip", losses)], LIGHT, "lost")
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.1, 0.1])
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.1], [0.3, -0.1]]
