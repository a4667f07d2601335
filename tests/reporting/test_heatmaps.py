"""Tests of the heatmaps of frozen bits and score matrices: their data, colours and labels."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from blip_rl.reporting import heatmaps, task
from blip_rl.reporting.style import DARK, LIGHT


def slow_block_mean(bits, tall, wide):
    rows = range(0, bits.shape[0], tall)
    columns = range(0, bits.shape[1], wide)
    return np.array([[bits[r : r + tall, c : c + wide].mean() for c in columns] for r in rows])


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (6, 9), (7, 10), (12, 31)])
def test_block_mean_is_the_mean_of_every_block(shape):
    bits = np.random.default_rng(0).integers(0, 21, shape, dtype=np.uint8)
    tall, wide = -(-shape[0] // 3), -(-shape[1] // 4)
    found = heatmaps.block_mean(bits, highest=3, widest=4)
    np.testing.assert_allclose(found, slow_block_mean(bits, tall, wide), rtol=1e-6)
    assert found.shape[0] <= 3
    assert found.shape[1] <= 4
    np.testing.assert_array_equal(heatmaps.block_mean(bits), bits)  # small layers keep every weight
    assert (heatmaps.block_mean(np.full((4000, 1000), 20, dtype=np.uint8)) == 20).all()  # sums do not overflow


def test_png_has_a_pixel_of_the_scales_colour_for_each_weight():
    bits = np.array([[0, 10, 20]], dtype=np.uint8)
    image = np.asarray(Image.open(io.BytesIO(heatmaps.bits_png(bits, 20))).convert("RGB"))
    assert image.shape == (1, 3, 3)
    scale = matplotlib.colormaps["RdYlBu_r"]
    for pixel, share in zip(image[0], (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(pixel / 255, scale(share)[:3], atol=0.02)
    few, many = image[0, 0], image[0, 2]
    assert few[2] > few[0], "few bits are blue"
    assert many[0] > many[2], "many bits are red"


def test_css_scale_begins_with_the_colour_of_zero_bits():
    colours = heatmaps.scale_css().removeprefix("linear-gradient(90deg, ").removesuffix(")")
    assert colours.startswith("rgb(49 54 149)")
    assert colours.count("rgb(") == 8


def test_figure_shows_every_weight_on_the_common_scale():
    bits = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 21
    figure = Figure()
    ax = heatmaps.draw_frozen_bits(figure.add_subplot(), bits, 20, "conv1 after boxing")
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), bits.reshape(2, 12))
    assert image.get_clim() == (0, 20)
    assert ax.get_title().startswith("conv1 after boxing\nmean ")


def test_image_has_the_colours_of_the_bits():
    image = heatmaps.frozen_bits_image(np.full((4, 4), 20, np.uint8), 20, "conv1 after boxing")
    assert image.dtype == np.uint8
    assert image.shape == (336, 480, 3)  # 4 x 2.8 inches of 120 pixels
    np.testing.assert_array_equal(image[176, 200], np.round(255 * np.array(matplotlib.colormaps["RdYlBu_r"](1.0)[:3])))


def test_layer_is_drawn_after_each_task_on_one_scale():
    figure = Figure()
    axes = list(figure.subplots(1, 2))
    maps = [np.full((2, 3), 4.0), np.full((2, 3), 9.0)]
    heatmaps.draw_layer(axes, maps, 20, ["after a", "after b"], LIGHT)
    assert [ax.images[0].get_clim() for ax in axes] == [(0, 20), (0, 20)]
    assert [ax.get_title() for ax in axes] == ["after a\nmean 4.0", "after b\nmean 9.0"]
    np.testing.assert_array_equal(axes[1].images[0].get_array(), maps[1])


def test_longest_title_is_not_truncated_in_a_matrix():
    title = "x" * task._LONGEST_TITLE
    ax = Figure(figsize=(4.8, 2)).add_subplot()
    heatmaps.draw_matrix(ax, [["1"]], np.array([[0.5]]), [f"after {title}"], [title], LIGHT)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"after {title}"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [title]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_score_matrix_labels_only_measured_cells(theme):
    shades = np.array([[1.0, np.nan], [0.1, 0.0]])
    ax = Figure(figsize=(4.8, 2)).add_subplot()
    texts = [["1.00", "–"], ["0.10", "0.50"]]
    heatmaps.draw_matrix(ax, texts, shades, ["after a", "after b"], ["a", "b"], theme)
    assert {(text.get_position(), text.get_text()) for text in ax.texts} == {
        ((0, 0), "1.00"),
        ((0, 1), "0.10"),
        ((1, 1), "0.50"),
    }
    assert len({text.get_color() for text in ax.texts}) == 2  # dark text on light cells, light text on dark ones
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), shades)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["after a", "after b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]


def test_matrices_share_a_scale_with_another_hue_for_negative_scores():
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
