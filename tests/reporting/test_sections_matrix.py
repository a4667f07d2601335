"""Tests of the colours of score matrices."""

from __future__ import annotations

import numpy as np
import pytest

from blip_rl.reporting import bars, heatmaps
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.groups import group_runs
from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.sections_matrix import consolidation_section, matrix_section


@pytest.fixture
def shades(sketches, monkeypatch, new_run, tmp_path):
    """Texts and shades of the matrices of two agents, the first with three seeds, and the section."""
    found = []
    original = heatmaps.draw_matrix

    def note(ax, texts, shades, rows, columns, theme):
        if theme.name == "light":
            found.append((texts, shades))
        return original(ax, texts, shades, rows, columns, theme)

    monkeypatch.setattr(heatmaps, "draw_matrix", note)
    runs = [new_run(f"blip{seed}", seed=seed) for seed in range(3)] + [new_run("half", agent="ewc", stages=1)]
    section = matrix_section(group_runs([load_run(run) for run in runs]), FigureWriter(tmp_path / "pictures"))
    return found, section


def test_normalised_matrices_share_one_colour_scale(shades):
    (blip, _, ewc, _), _ = shades
    for texts, cells in (blip, ewc):
        for (row, column), shade in np.ndenumerate(cells):
            if np.isfinite(shade):
                assert shade == pytest.approx(min(1.0, float(texts[row][column])), abs=0.006)


def test_raw_matrices_are_not_coloured(shades):
    (_, (texts, blip), _, (_, ewc)), section = shades
    assert texts[0][0] != texts[2][0]
    assert set(blip[np.isfinite(blip)]) == set(ewc[np.isfinite(ewc)]) == {0.0}
    captions = [picture.caption for picture in section.figures]
    assert all(caption.startswith("Not coloured") for caption in captions[1::2])
    assert [caption.endswith("Mean over 3 seeds.") for caption in captions] == [True, True, False, False]


@pytest.mark.parametrize(("title", "layout"), [("Kung-Fu Master", "pair"), ("MinAtar Space Invaders", "wide")])
def test_every_score_fits_into_its_cell(title, layout, sketches, monkeypatch, new_run, tmp_path):
    widths, original = [], heatmaps.draw_matrix

    def measure(ax, texts, *rest):
        original(ax, texts, *rest)
        ax.figure.draw_without_rendering()
        cell = ax.transData.transform((1, 0))[0] - ax.transData.transform((0, 0))[0]
        widths.extend(text.get_window_extent().width / cell for text in ax.texts)

    monkeypatch.setattr(heatmaps, "draw_matrix", measure)
    run = load_run(new_run("blip", titles={"kungfu": title}))
    assert run.tasks[0].title == title
    section = matrix_section(group_runs([run]), FigureWriter(tmp_path / "pictures"))
    assert section.layout == layout
    assert widths
    assert max(widths) < 0.9


def test_the_loss_is_that_of_the_episodes_scored_both_before_and_after(new_run, tmp_path, sketches, monkeypatch):
    """As after `blip-rl evaluate --episodes 4`, whose further episodes happen to be better by 3."""
    path, drawn = new_run("blip"), []
    rows = [line.split(",") for line in (path / "scores.csv").read_text(encoding="utf-8").splitlines()]
    more = [
        [*row[:4], str(int(row[4]) + 2), str(float(row[5]) + 3), *row[6:8], str(float(row[8]) + 0.3), row[9]]
        for row in rows
        if row[2] == "after"
    ]
    (path / "scores.csv").write_text("\n".join(map(",".join, [*rows, *more])) + "\n", encoding="utf-8")
    original = bars.draw_consolidation_loss
    monkeypatch.setattr(bars, "draw_consolidation_loss", lambda ax, *rest: drawn.append(rest) or original(ax, *rest))
    groups = group_runs([load_run(new_run("multi", agent="multitask", bits=False, together=True)), load_run(path)])
    consolidation_section(groups, FigureWriter(tmp_path / "pictures"))
    _, (_, (index, label, losses)), *_ = drawn[0]
    assert (index, label) == (1, "blip"), "with the agent's colour in all other charts"
    np.testing.assert_allclose(losses[np.isfinite(losses)], 0.05)


def test_a_multitask_run_without_a_final_score_has_no_matrix(new_run, sketches, tmp_path):
    path = new_run("multi", agent="multitask", together=True, settings={"method": {"name": "multitask"}})
    table = (path / "scores.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (path / "scores.csv").write_text("".join(row for row in table if ",after," not in row and ",before," not in row))
    html = write_report([path, new_run("blip")], out=tmp_path / "page").page.read_text(encoding="utf-8")
    assert "Score matrix" in html
