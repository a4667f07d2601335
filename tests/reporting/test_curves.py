"""Tests of the line charts: lines, bands and labels of the figure, not its pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blip_rl.core.intervals import student_interval
from blip_rl.reporting import curves
from blip_rl.reporting.groups import over_seeds
from blip_rl.reporting.style import DARK, LIGHT, numbers_axis, safe_label, short_number
from blip_rl.step_counts import short_steps


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(4.8, 2.8)).add_subplot()


def rising(*ends):
    """Return a curve for each of ``ends``, from 0 at step 10 to it at step 30."""
    return [(np.array([10, 20, 30]), np.array([0.0, end / 2, end])) for end in ends]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_one_run_is_one_line(ax):
    assert curves.draw_curves(ax, [over_seeds("blip", 0, rising(4.0))], LIGHT, "return") is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[10, 0], [20, 2], [30, 4]])
    assert line.get_color() == LIGHT.series[0]
    assert ax.get_ylabel() == "return"
    assert not ax.collections
    assert ax.get_legend() is None


def test_two_runs_are_two_lines_without_a_band(ax):
    curves.draw_curves(ax, [over_seeds("blip", 0, rising(4.0, 8.0))], LIGHT, "return")
    assert [line.get_ydata()[-1] for line in ax.lines] == [4.0, 8.0]
    assert not ax.collections


@pytest.mark.parametrize(
    ("values", "low", "high"), [((0.011, 0.017), 0, 1.12), ((-0.5, 0.4), -0.59, 1.18), ((1.0, 3.0), 0, 3.36)]
)
def test_axis_of_normalised_scores_begins_at_0_and_shows_the_reference(ax, values, low, high):
    curves.draw_curves(ax, [over_seeds("blip", 0, [(np.array([1, 2]), np.array(values))])], LIGHT, "score")
    assert curves.draw_from_zero(ax, LIGHT) is ax
    assert ax.get_ylim() == pytest.approx((low, high))
    levels = {line.get_ydata()[0] for line in ax.lines[1:]}
    assert levels == ({0, 1} if low < 0 else {1})
    assert texts(ax) == [], "no label covers the data"


def test_partial_evaluations_are_open_markers_without_a_line(ax):
    series = replace(over_seeds("blip", 0, rising(4.0)), partial=((np.array([15.0]), np.array([9.0])),))
    curves.draw_curves(ax, [series], LIGHT, "return")
    open_marks, line = ax.lines
    assert (open_marks.get_xydata().tolist(), open_marks.get_linestyle()) == ([[15, 9]], "None")
    assert open_marks.get_markerfacecolor() == "none"
    assert line.get_xdata().tolist() == [10, 20, 30]


def test_three_runs_are_a_mean_a_band_and_faint_lines(ax):
    curves.draw_curves(ax, [over_seeds("blip", 0, rising(3.0, 6.0, 9.0))], LIGHT, "return")
    *single, mean = ax.lines
    assert [line.get_ydata()[-1] for line in single] == [3.0, 6.0, 9.0]
    np.testing.assert_allclose(mean.get_ydata(), [0, 3, 6])
    assert all(line.get_alpha() < 0.5 for line in single)
    assert mean.get_alpha() is None
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == student_interval([3, 6, 9])


def test_groups_have_a_legend_and_their_own_colours_and_markers(ax):
    series = [over_seeds(name, index, rising(1.0, 2.0, 3.0)) for index, name in enumerate(("blip", "finetune"))]
    curves.draw_curves(ax, series, DARK, "return")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["blip", "finetune"]
    assert [line.get_color() for line in ax.lines] == list(DARK.series[:2])
    assert len({line.get_marker() for line in ax.lines}) == 2, "colour must not be the only difference"


def test_constant_curve_has_a_wide_axis(ax):
    curves.draw_curves(ax, [over_seeds("blip", 0, [(np.array([1, 2]), np.zeros(2))])], LIGHT, "return")
    assert ax.get_ylim() == (-0.05, 1)


def test_labels_and_legend_are_outside_the_axis(ax):
    series = [over_seeds(name, index, rising(1.0 + index)) for index, name in enumerate(("blip", "finetune"))]
    ax.figure.set_layout_engine("constrained")
    curves.draw_curves(ax, series, LIGHT, "return")
    curves.draw_boundaries(ax, [(14.0, "Space Invaders"), (29.0, "Krull")], LIGHT)
    curves.draw_level(ax, 1.0, "random play", LIGHT)
    ax.figure.draw_without_rendering()
    data, (legend,) = ax.get_window_extent(), ax.figure.legends
    names = [text.get_window_extent() for text in ax.texts]
    assert texts(ax) == ["Space Invaders", "Krull", "random\nplay"]
    assert [line.get_xdata()[0] for line in ax.lines[2:4]] == [14.0, 29.0]
    assert not any(name.overlaps(data) for name in names)
    assert legend.get_window_extent().y0 >= max(name.y1 for name in names[:2])
    assert all(ax.figure.bbox.containsx(name.x1) and ax.figure.bbox.containsy(name.y1) for name in names)


def test_training_returns_are_thin_lines_behind_the_evaluations(ax):
    curves.draw_training(ax, [(np.array([5, 10, 15]), np.array([1.0, 9.0, 2.0]))], 0, LIGHT)
    curves.draw_curves(ax, [over_seeds("blip", 0, rising(4.0))], LIGHT, "return")
    training, scores = ax.lines
    np.testing.assert_array_equal(training.get_xydata(), [[5, 1], [10, 9], [15, 2]])
    assert training.get_color() == scores.get_color()
    assert training.get_linewidth() < scores.get_linewidth() / 2
    assert training.get_zorder() < scores.get_zorder()
    assert ax.get_ylim()[1] > 9


def test_spans_have_the_games_name_above_the_axis(ax):
    curves.draw_spans(ax, [(0, 100, "Kung-Fu"), (100, 200, "Boxing")], LIGHT)
    assert [line.get_xdata()[0] for line in ax.lines] == [100]
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("Kung-Fu", (50, 1)), ("Boxing", (150, 1))]


def test_names_of_many_spans_slope_and_do_not_overlap(ax):
    spans = [(100 * n, 100 * (n + 1), f"Space Invaders {n}") for n in range(40)]
    curves.draw_spans(ax, spans, LIGHT)
    ax.figure.draw_without_rendering()
    assert len(ax.lines) == 39
    assert 5 < len(ax.texts) < 20
    assert all(text.get_rotation() == 30 for text in ax.texts)


def test_level_outside_the_axis_is_left_out(ax):
    ax.set_ylim(0, 10)
    curves.draw_level(ax, 5, "random play", LIGHT)
    curves.draw_level(ax, 23_000, "reference", LIGHT)
    assert texts(ax) == ["random\nplay"]
    assert ax.get_ylim() == (0, 10)


@pytest.mark.parametrize("hostile", ["$\\frac{", "a$b$c", "_hidden", "a\x00b\nc", "<b>&amp;", "x" * 500])
def test_any_name_is_safe_in_a_chart_and_its_legend(ax, hostile):
    series = [over_seeds(hostile, 0, rising(1.0)), over_seeds("other", 1, rising(2.0))]
    curves.draw_curves(ax, series, LIGHT, "return")
    curves.draw_boundaries(ax, [(15.0, hostile)], LIGHT)
    ax.figure.draw_without_rendering()
    assert len(ax.figure.legends[0].get_texts()) == 2
    assert len(safe_label(hostile)) <= 44


def test_short_numbers():
    steps = {0: "0", 999: "999", 50_000: "50k", 1_500_000: "1.5M", 60_000_000: "60M", 2e9: "2G"}
    assert [short_steps(value) for value in steps] == list(steps.values())
    numbers = {0.5: "0.5", -2.5: "−2.5", 366.4: "366", 23_310: "23.3k"}
    assert [short_number(value) for value in numbers] == list(numbers.values())


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_contrast_with_the_background(theme):
    """WCAG 2: at least 3 : 1 for lines and marks, 4.5 : 1 for text."""

    def contrast(colour):
        dim, bright = sorted([_luminance(colour), _luminance(theme.paper)])
        return (bright + 0.05) / (dim + 0.05)

    assert all(contrast(colour) >= 2.9 for colour in theme.series), [round(contrast(c), 2) for c in theme.series]
    assert min(contrast(theme.text), contrast(theme.muted)) >= 4.5


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (23_310, 23_350, ["23,310", "23,320", "23,330", "23,340", "23,350"]),
        (366.1, 367.9, ["366.0", "366.5", "367.0", "367.5", "368.0"]),
        (23_300, 23_311, ["23,300.0", "23,302.5", "23,305.0", "23,307.5", "23,310.0"]),
        (0, 40_000, ["0", "10k", "20k", "30k", "40k"]),
    ],
)
def test_no_two_ticks_have_the_same_label(ax, low, high, shown):
    ax.set_ylim(low, high)
    numbers_axis(ax.yaxis)
    ticks = [value for value in ax.yaxis.get_majorticklocs() if low - 1 <= value <= high + 1]
    assert set(shown) <= set(ax.yaxis.get_major_formatter().format_ticks(ticks))
