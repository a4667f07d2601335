"""Heatmaps hold the bits and the scores they were given."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from blip_rl.report import heatmaps, run_record
from blip_rl.report.style import DARK, LIGHT


def slow_block_mean(bits, tall, wide):
    rows = range(0, bits.shape[0], tall)
    columns = range(0, bits.shape[1], wide)
    return np.array([[bits[r : r + tall, c : c + wide].mean() for c in columns] for r in rows])


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (6, 9), (7, 10), (12, 31)])
def test_the_block_mean_is_the_mean_of_every_block(shape):
    bits = np.random.default_rng(0).integers(0, 21, shape, dtype=np.uint8)
    tall, wide = -(-shape[0] // 3), -(-shape[1] // 4)
    found = heatmaps.block_mean(bits, highest=3, widest=4)
    np.testing.assert_allclose(found, slow_block_mean(bits, tall, wide), rtol=1e-6)
    assert found.shape[0] <= 3
    assert found.shape[1] <= 4


def test_many_frozen_bits_do_not_overflow_a_mean():
    assert (heatmaps.block_mean(np.full((1000, 1000), 20, dtype=np.uint8)) == 20).all()


def test_a_small_layer_keeps_every_weight():
    bits = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(heatmaps.block_mean(bits), bits)


def test_the_png_has_a_pixel_for_each_weight_in_the_colours_of_the_scale():
    bits = np.array([[0, 10, 20]], dtype=np.uint8)
    image = np.asarray(Image.open(io.BytesIO(heatmaps.bits_png(bits, 20))).convert("RGB"))
    assert image.shape == (1, 3, 3)
    scale = matplotlib.colormaps["RdYlBu_r"]
    for pixel, share in zip(image[0], (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(pixel / 255, scale(share)[:3], atol=0.02)
    few, many = image[0, 0], image[0, 2]
    assert few[2] > few[0], "few bits are blue"
    assert many[0] > many[2], "many bits are red"


def test_the_css_scale_runs_from_few_to_many():
    colours = heatmaps.scale_css().removeprefix("linear-gradient(90deg, ").removesuffix(")")
    assert colours.startswith("rgb(49 54 149)")
    assert colours.count("rgb(") == 8


def test_a_figure_shows_every_weight_on_the_scale_of_all_bits():
    bits = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 21
    figure = Figure()
    ax = heatmaps.draw_frozen_bits(figure.add_subplot(), bits, 20, "conv1 after boxing")
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), bits.reshape(2, 12))
    assert image.get_clim() == (0, 20)
    assert ax.get_title().startswith("conv1 after boxing\nmean ")


def test_an_image_shows_the_colours_of_the_bits():
    image = heatmaps.frozen_bits_image(np.full((4, 4), 20, np.uint8), 20, "conv1 after boxing")
    assert image.dtype == np.uint8
    assert image.shape == (352, 770, 3)  # 7 x 3.2 inches of 110 pixels
    np.testing.assert_array_equal(image[176, 300], np.round(255 * np.array(matplotlib.colormaps["RdYlBu_r"](1.0)[:3])))


def test_a_layer_is_drawn_task_after_task_on_one_scale():
    figure = Figure()
    axes = list(figure.subplots(1, 2))
    maps = [np.full((2, 3), 4.0), np.full((2, 3), 9.0)]
    heatmaps.draw_layer(axes, maps, 20, ["after a", "after b"], LIGHT)
    assert [ax.images[0].get_clim() for ax in axes] == [(0, 20), (0, 20)]
    assert [ax.get_title() for ax in axes] == ["after a\nmean 4.0", "after b\nmean 9.0"]
    np.testing.assert_array_equal(axes[1].images[0].get_array(), maps[1])


def test_the_longest_title_is_whole_in_a_row_of_the_matrix():
    title = "x" * run_record._LONGEST_TITLE
    ax = Figure(figsize=(4.8, 2)).add_subplot()
    heatmaps.draw_matrix(ax, [["1"]], np.array([[0.5]]), [f"after {title}"], [title], LIGHT)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"after {title}"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [title]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_score_matrix_labels_measured_cells_and_no_others(theme):
    shades = np.array([[0.9, np.nan], [0.1, 0.5]])
    ax = Figure(figsize=(4.8, 2)).add_subplot()
    texts = [["1.00", "–"], ["0.10", "0.50"]]
    heatmaps.draw_matrix(ax, texts, shades, ["after a", "after b"], ["a", "b"], theme)
    assert {(text.get_position(), text.get_text()) for text in ax.texts} == {
        ((0, 0), "1.00"),
        ((0, 1), "0.10"),
        ((1, 1), "0.50"),
    }
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), shades)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["after a", "after b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


def test_the_colours_of_matrices_are_on_one_scale_with_negative_scores_in_another_hue():
    shown = []
    for shades in ([[0.02, 0.01]], [[-0.5, 0.02]]):
        ax = Figure(figsize=(4.8, 2)).add_subplot()
        heatmaps.draw_matrix(ax, [["a", "b"]], np.array(shades), ["r"], ["a", "b"], LIGHT)
        (image,) = ax.images
        shown.append(image.cmap(image.norm(np.array(shades)))[0, :, :3])
    np.testing.assert_array_equal(shown[0][0], shown[1][1])
    assert shown[0].min() > 0.9, "two hundredths are pale"
    red, _, blue = shown[1][0]
    assert red > blue + 0.2, "below random play: orange, not blue"


def test_cell_text_contrasts_with_its_cell():
    shades = np.array([[1.0, 0.0]])
    ax = Figure(figsize=(4.8, 2)).add_subplot()
    heatmaps.draw_matrix(ax, [["1", "0"]], shades, ["r"], ["a", "b"], LIGHT)
    strong, weak = ax.texts
    assert strong.get_color() == "#ffffff"
    assert weak.get_color() == "#10151c"
