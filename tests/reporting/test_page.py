"""Tests of the report page for complete, running, interrupted and damaged runs."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.core import metrics
from blip_rl.core.intervals import interquartile_mean, student_interval
from blip_rl.errors import UserError
from blip_rl.reporting import curves
from blip_rl.reporting.bits import load_bit_maps
from blip_rl.reporting.groups import (
    accumulated_series,
    describe_series,
    group_runs,
    over_seeds,
)
from blip_rl.reporting.normalising import rescale_observed
from blip_rl.reporting.page import run_folders, write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.summary_metrics import metric_estimate
from tests.reporting import report_runs as made


@pytest.fixture(autouse=True)
def fast_pictures(request):
    """Draw quickly, except in tests that ask for ``real_pictures``."""
    if "real_pictures" not in request.fixturenames:
        request.getfixturevalue("sketches")


@pytest.fixture
def real_pictures():
    """Draw and save figures completely."""


SECTIONS = ["run", "summary", "accumulated", "games", "matrix", "stages", "bits"]
SECTIONS += ["consolidation", "plasticity", "play", "speed", "command"]


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def alts(self):
        return [image["alt"] or "" for image in self.all("img")]


def read(run, **options):
    written = write_report([run] if isinstance(run, Path) else run, **options)
    return Page(written.page.read_text(encoding="utf-8")), written


def test_page_has_every_section_and_the_metrics(new_run):
    run = new_run("blip0")
    page, written = read(run)
    assert written.page == run / "report.html"
    assert written.problems == ()
    assert [one["id"] for one in page.all("section")] == SECTIONS
    matrix = np.full((3, 3), np.nan)
    for stage in range(3):
        for task in range(stage + 1):
            matrix[stage, task] = made.score(stage + 1, task, 0) / made.REFERENCE
    for value in (
        metrics.average_performance(matrix),
        metrics.accumulated(matrix[-1]),
        metrics.mean_forgetting(matrix),
    ):
        assert f"{value:.2f}" in page.text
    assert f"−{-metrics.backward_transfer(matrix):.2f}" in page.text
    assert "complete: all 3 games, 3,000 steps" in page.text
    assert "blip-rl train --games kungfu,boxing,krull" in page.text


def test_alternative_texts_contain_the_numbers(new_run):
    page, _ = read(new_run("blip0"))
    assert all(len(alt) > 20 for alt in page.alts)
    whole = "\n".join(page.alts)
    assert "after Krull: Kung-Fu Master 0.444, Boxing 0.667, Krull 1.00" in whole
    assert "Frozen bits of conv1 after Boxing, blip: mean 4.50 of 20, from 4 to 5" in whole
    assert "Mean return on Boxing against steps. blip: 6.67 at 3,000 steps" in whole
    assert "Consolidation loss. blip: after Kung-Fu Master +0.05" in whole


def test_every_figure_is_embedded_and_saved_as_png_and_svg(new_run, real_pictures):
    run = new_run("blip0")
    page, written = read(run)
    names = {path.stem for path in written.pictures.glob("*.svg")}
    assert names == {path.stem for path in written.pictures.glob("*.png")}
    assert {"accumulated-reward", "game-1-kungfu", "matrix-raw-blip", "bit-budget-blip", "bits-conv1-blip"} <= names
    assert {"consolidation-loss", "plasticity-effective_rank".replace("_", "-"), "speed-steps-per-second"} <= names
    files = {link["download"]: base64.b64decode(link["href"].partition(",")[2]) for link in page.all("a")}
    assert files == {path.name: path.read_bytes() for path in written.pictures.glob("*.csv")}
    layers = {"bits-conv1-blip", "bits-fc1-blip"}  # one file for the heatmaps of all layers
    assert {name.removesuffix(".csv") for name in files} == names - layers | {"frozen-bits-blip"}
    shown = [image["src"] for image in page.all("img")] + [source["srcset"] for source in page.all("source")]
    assert all(address.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for address in shown)
    assert not page.all("script")
    inline = base64.b64decode(page.all("img")[0]["src"].partition(",")[2])
    assert inline == (written.pictures / "accumulated-reward.svg").read_bytes()


def test_figures_are_reproducible(new_run, real_pictures):
    """One game without logs: the fewest pictures."""
    run = new_run("blip0", games=("boxing",), logs=False, bits=False)
    first = {p.name: p.read_bytes() for p in write_report([run]).pictures.iterdir()}
    assert first == {p.name: p.read_bytes() for p in write_report([run]).pictures.iterdir()}


def test_runs_are_grouped_by_agent_with_an_interval_from_three_seeds(new_run, tmp_path):
    runs = [new_run(f"blip{seed}", seed=seed) for seed in range(3)]
    runs += [new_run(f"finetune{seed}", agent="finetune", seed=seed, bits=False) for seed in range(2)]
    groups = group_runs([load_run(run) for run in reversed(runs)])
    assert [(group.label, [run.seed for run in group.runs]) for group in groups] == [
        ("finetune", [0, 1]),
        ("blip", [0, 1, 2]),
    ]
    page, written = read(runs, out=tmp_path / "out", title="Two agents")
    assert written.page == tmp_path / "out" / "report.html"
    assert "<h1>Two agents</h1>" in written.page.read_text(encoding="utf-8")
    found = [metric_estimate(group, "ACC") for group in groups]
    assert len(found[0].values) == 2
    assert found[0].interval is None
    low, high = found[1].interval
    assert found[1].interval == student_interval(found[1].values)
    assert f"{low:.3f} to {high:.3f} (mean, 95 % Student interval), 3 seeds" in page.text
    assert "0.704 · 0.714" in page.text
    assert "2 seeds, no interval" in page.text
    assert "bootstrap" not in page.text
    lines = "blip: mean over 3 seeds (line), 95 % Student interval (band). finetune: a line for each of 2 seeds."
    marks = "blip: mean over 3 seeds (diamond), 95 % Student interval (bar). finetune: a point for each of 2 seeds."
    assert page.text.count(lines) == 10  # accumulated reward, three games, four of plasticity, two of speed
    assert page.text.count(marks) == 5  # ACC, BWT, accumulated reward, forgetting, stability gap


def test_runs_with_different_settings_are_separate_groups(new_run):
    runs = [new_run(f"r{bits}", settings={"method": {"name": "blip", "first_task_bits": bits}}) for bits in (1, 2)]
    labels = [group.label for group in group_runs([load_run(run) for run in runs])]
    assert labels == ["blip, first_task_bits=1", "blip, first_task_bits=2"]


def test_folder_stands_for_the_runs_inside_without_duplicates(new_run, tmp_path):
    runs = [new_run(f"r{seed}", seed=seed) for seed in range(2)]
    (tmp_path / "notes").mkdir()
    assert run_folders([tmp_path, runs[0]]) == runs


@pytest.mark.parametrize("runs", [1, 2, 3, 9, 10])
def test_interval_and_caption_depend_on_the_number_of_seeds(runs):
    values = np.random.default_rng(0).normal(size=(runs, 2))
    series = over_seeds("blip", 0, [(np.array([10, 20]), row) for row in values])
    caption = describe_series([series])
    if runs < 3:
        assert series.low.size == 0
        assert caption == ("" if runs == 1 else "A line for each of 2 seeds.")
    elif runs < 10:
        np.testing.assert_allclose(series.centre, values.mean(axis=0))
        ends = [student_interval(column) for column in values.T]
        np.testing.assert_array_equal(np.column_stack([series.low, series.high]), ends)
        assert caption == f"Mean over {runs} seeds (line), 95 % Student interval (band), single seeds (faint lines)."
    else:
        np.testing.assert_allclose(series.centre, [interquartile_mean(column) for column in values.T])
        assert all(
            low < centre < high for low, centre, high in zip(series.low, series.centre, series.high, strict=True)
        )
        assert caption.startswith("Interquartile mean over 10 seeds (line), 95 % bootstrap interval (band)")


def test_observed_normalisation_spans_the_returns_of_all_runs(new_run):
    runs = [load_run(new_run(f"r{seed}", seed=seed, normalisers=False)) for seed in (0, 5)]
    rescaled = rescale_observed(runs)
    raw = np.concatenate([np.stack([run.scores.after, run.scores.before]).ravel() for run in runs])
    boxing = [run.scores.after[:, 1] for run in runs] + [run.scores.before[:, 1] for run in runs]
    low, high = np.nanmin(boxing), np.nanmax(boxing)
    np.testing.assert_allclose(
        rescaled[0].scores.after_normalised[:, 1], (runs[0].scores.after[:, 1] - low) / (high - low)
    )
    found = np.concatenate(
        [np.stack([r.scores.after_normalised, r.scores.before_normalised]).ravel() for r in rescaled]
    )
    assert np.nanmin(found) == 0
    assert np.nanmax(found) == 1
    assert np.isnan(found).sum() == np.isnan(raw).sum()


def test_scores_without_reference_are_rescaled_with_a_note(new_run):
    page, _ = read(new_run("bare", normalisers=False))
    assert "The recipe has no game with both a random and a reference score." in page.text


def test_a_game_without_reference_is_not_normalised_and_the_others_are(new_run):
    whole = new_run("whole")
    titles = [task.title for task in load_run(whole).tasks]
    bare = new_run("bare")
    config, scores = bare / "config.toml", bare / "scores.csv"
    second = load_run(bare).tasks[1].name
    before, mark, after = config.read_text().partition(f'name = "{second}"')
    config.write_text(before + mark + re.sub(r"reference_score = .*\n", "", after, count=1))
    header, *rows = [line.split(",") for line in scores.read_text().splitlines()]
    for row in rows:
        if row[header.index("task")] == second:
            row[header.index("normalised")] = ""
    scores.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    page, _ = read(bare)
    assert f"Not normalised: {titles[1]}, for which the recipe lacks a random or a reference score" in page.text
    assert "observed" not in page.text.partition("Not normalised")[0]
    matrix = load_run(whole).scores.after_normalised
    (group,) = group_runs([load_run(bare)])
    others = [task for task in range(len(matrix)) if task != 1]
    assert metric_estimate(group, "ACC").centre == pytest.approx(matrix[-1, others].mean())
    assert metric_estimate(group, "Accumulated reward").centre == pytest.approx(matrix[-1, others].sum())
    changes = [matrix[-1, task] - matrix[task, task] for task in others[:-1]]
    assert metric_estimate(group, "BWT").centre == pytest.approx(np.mean(changes))
    ((_, total),) = accumulated_series(group, 0).lines
    assert total[-1] == pytest.approx(matrix[-1, others].sum())


def test_page_names_the_reference_score(new_run):
    run = new_run("named")
    page, _ = read(run)
    assert "Normalised scores: 0 = random play, 1 = the reference score of the recipe." in page.text
    config = run / "config.toml"
    title = load_run(run).tasks[0].title
    text = config.read_text().replace("random_score", 'reference_name = "<human>"\nrandom_score', 1)
    config.write_text(text)
    page, _ = read(run)
    assert f"0 = random play, 1 = <human> ({title}), the reference score of the recipe (" in page.text


def test_constant_score_is_rescaled_to_zero(new_run):
    run = load_run(new_run("one", games=("kungfu",), normalisers=False))
    flat = np.full((1, 1), 3.0)
    scores = replace(run.scores, after=flat, before=flat, curves=(run.scores.curves[0].since(9),))
    (rescaled,) = rescale_observed([replace(run, scores=scores)])
    assert rescaled.scores.after_normalised.tolist() == [[0.0]]


@pytest.mark.parametrize("first", ["whole", "half"])
def test_task_boundaries_are_those_of_the_run_with_the_most_steps(new_run, tmp_path, monkeypatch, first):
    shaded: dict[str, list[tuple[float, float]]] = {}
    spans = []

    def note(ax, start, end, theme, name=""):
        shaded.setdefault(theme.name, []).append((start, end))

    monkeypatch.setattr(curves, "draw_own_training", note)
    monkeypatch.setattr(curves, "draw_spans", lambda ax, found, theme: spans.append(found))
    runs = [new_run("whole"), new_run("half", agent="other", stages=1)]
    write_report(runs if first == "whole" else runs[::-1], out=tmp_path / "out")
    assert shaded["light"] == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert spans[0] == [(0, 1000, "Kung-Fu Master"), (1000, 2000, "Boxing"), (2000, 3000, "Krull")]


@pytest.mark.parametrize(
    ("stages", "progress", "summary"),
    [
        (2, "2,000 of 3,000 steps, 2 of 3 games learned", "So far: after 2 of 3 games"),
        (0, "0 of 3,000 steps", "No score yet."),
    ],
)
def test_page_of_a_running_run_shows_its_progress(new_run, stages, progress, summary):
    page, written = read(new_run("half", stages=stages))
    assert written.problems == ()
    assert progress in page.text
    assert summary in page.text
    assert [one["id"] for one in page.all("section")] == SECTIONS
    (bar,) = page.all("progress")
    assert float(bar["value"]) == pytest.approx(stages / 3)


def test_bwt_needs_a_second_game(new_run):
    page, _ = read(new_run("one", games=("boxing",)))
    assert "needs a second game" in page.text
    assert "complete: one game, 1,000 steps" in page.text


def test_truncated_episodes_are_counted(new_run):
    run = new_run("cut")
    page, _ = read(run)
    assert "truncated" not in page.text
    lines = (run / "scores.csv").read_text(encoding="utf-8").splitlines()
    cut = [line.replace(",9,0,", ",9,1,") if number in (2, 5) else line for number, line in enumerate(lines)]
    (run / "scores.csv").write_text("\n".join(cut) + "\n", encoding="utf-8")
    page, _ = read(run)
    assert f"2 of {len(lines) - 1} episodes were truncated" in page.text


def test_comparison_after_one_game_has_no_empty_chart(new_run, tmp_path):
    runs = [new_run(agent, agent=agent, stages=1) for agent in ("blip", "finetune")]
    page, written = read(runs, out=tmp_path / "out")
    drawn = {one["alt"].split(",")[0] for one in page.all("img")}
    assert "ACC" in drawn
    assert not drawn & {"BWT", "Forgetting"}
    assert "<h1>blip and finetune on Kung\N{NON-BREAKING HYPHEN}Fu" in written.page.read_text(encoding="utf-8")


def test_games_learned_together_have_one_matrix_row_and_no_bwt(new_run):
    page, _ = read(new_run("multi", agent="multitask", together=True, bits=False))
    assert "the games were learned together" in page.text
    assert "all together: Kung-Fu Master 0.444, Boxing 0.667, Krull 1.00" in "\n".join(page.alts)
    assert "the method freezes none, or no game" in page.text


def test_truncated_lines_are_skipped_and_named(new_run):
    run = new_run("cut")
    with (run / "scores.csv").open("a") as file:
        file.write("3000,3,after,kru")
    with (run / "bits.csv").open("a") as file:
        file.write("3,fc1,we")
    page, written = read(run)
    assert "'scores.csv', line 38: 4 of 10 cells: an incomplete row" in page.text
    assert "bits.csv: 1 of" in page.text
    assert len(written.problems) == 2
    assert "complete: all 3 games" in page.text


BROKEN = {
    "no bits.csv": (lambda run: (run / "bits.csv").unlink(), "bits.csv is missing"),
    "no scores.csv": (lambda run: (run / "scores.csv").unlink(), "scores.csv"),
    "no config.toml": (lambda run: (run / "config.toml").unlink(), "config.toml is missing"),
    "a truncated config.toml": (
        lambda run: (run / "config.toml").write_text('agent_name = "bl'),
        "config.toml' cannot be read",
    ),
    "an empty config.toml": (lambda run: (run / "config.toml").write_text(""), "config.toml is empty"),
    "binary scores": (lambda run: (run / "scores.csv").write_bytes(b"\xff\x00\x9c" * 50), "scores.csv"),
    "no command.txt": (lambda run: (run / "command.txt").unlink(), "command.txt is missing"),
    "a truncated environment.json": (
        lambda run: (run / "environment.json").write_text("{"),
        "environment.json cannot be read",
    ),
    "a damaged checkpoint": (
        lambda run: (run / "checkpoints/stage-02/method.safetensors").write_bytes(b"\x08" + b"\0" * 40),
        "checkpoints/stage-02/method.safetensors cannot be read",
    ),
    "a table with other columns": (
        lambda run: (run / "plasticity.csv").write_text("a,b\n1,2\n"),
        "has no column env_steps",
    ),
    "a number out of range": (
        lambda run: (run / "speed.csv").write_text("env_steps,stage,steps_per_second,peak_memory_mb\ninf,1,3,2\n"),
        "speed.csv: 1 of 1 rows skipped",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_page_of_a_damaged_run_names_what_is_missing(new_run, damage):
    run = new_run("broken")
    spoil, message = BROKEN[damage]
    spoil(run)
    result = CliRunner().invoke(cli, ["report", str(run)])
    assert result.exit_code == 0, result.output
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert message in page.text
    assert "missing" in [one["id"] for one in page.all("section")]


def test_command_warns_about_missing_files(new_run):
    run = new_run("broken", games=("boxing",), logs=False)
    (run / "bits.csv").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "blip_rl", "report", str(run)], capture_output=True, text=True, check=True
    )
    assert "Warning: broken: bits.csv is missing" in done.stderr
    assert str(run / "report.html") in done.stdout


def test_folder_without_runs_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a run folder and contains none"):
        write_report([tmp_path / "empty"])
    assert CliRunner().invoke(cli, ["report", str(tmp_path / "empty")], standalone_mode=True).exit_code == 2
    assert not (tmp_path / "empty" / "report.html").exists()


HOSTILE = '</title><script>alert(1)</script>"><img src=x onerror=alert(2)>$\\frac{&'


def test_text_from_files_is_escaped(new_run, real_pictures):
    run = new_run(
        "hostile",
        agent=HOSTILE,
        games=("kungfu", HOSTILE),
        titles={"kungfu": HOSTILE},
        command=HOSTILE,
        shapes={"</td><script>": (3, 3)},
        settings={"description": HOSTILE},
    )
    environment = dict.fromkeys(("device", "commit", "started", "</tr>"), HOSTILE)
    (run / "environment.json").write_text(json.dumps(environment))
    page, written = read(run, title=HOSTILE)
    html = written.page.read_text(encoding="utf-8")
    assert not page.all("script")
    assert "<script" not in html
    names = r"[A-Za-z0-9-]+\.csv"  # letters, digits and hyphens: harmless
    assert "onerror" not in re.sub(rf"&#34;&gt;&lt;img src=x onerror=alert\(2\)&gt;|{names}", "", html)
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert HOSTILE in page.text
    assert all(re.fullmatch(r"[A-Za-z0-9-]+\.(png|svg|csv)", path.name) for path in written.pictures.iterdir())


def test_bit_maps_are_those_of_the_checkpoints(new_run):
    maps = load_bit_maps(new_run("blip0"), [])
    assert [(one.stage, one.layer) for one in maps] == [(s, layer) for s in (1, 2, 3) for layer in ("conv1", "fc1")]
    np.testing.assert_array_equal(maps[2].frozen_bits, made.frozen(2, (4, 2, 3, 3)).reshape(4, 18))


def test_share_of_weights_without_information_is_below_each_map(new_run):
    run = new_run("blip0")
    first = {"prior": 1.5e-9, "informed_bits": 3.0, "bits": 1.25, "drift": 0.01}
    for stage, share in ((1, 0.8), (2, 0.25)):  # the third as an early version left it
        shares = {"conv1.weight": share, "fc1.weight": 0.0, "fc1.bias": 1.0}
        facts = {"stage": stage, "method": {"without_information": shares, "first_task": first}}
        (run / "checkpoints" / f"stage-{stage:02d}" / "stage.json").write_text(json.dumps(facts))
    page, written = read(run)
    shares = re.findall(r"<small>([0-9]+%) without information</small>", written.page.read_text(encoding="utf-8"))
    assert shares == ["80%", "25%", "0%", "0%"]
    assert "prior 1.5e-09 froze on average 3.00 bits" in page.text
    assert any("80% have no information" in image.get("alt", "") for image in page.all("img"))


def test_small_gif_is_embedded_and_large_gif_is_linked(new_run, tmp_path):
    runs = [new_run("small"), new_run("large", agent="other")]
    for run, size in zip(runs, (10, 4_000_001), strict=True):
        (run / "gifs").mkdir()
        (run / "gifs" / "grid.gif").write_bytes(b"GIF89a" + b"\0" * size)
    page, _ = read(runs, out=tmp_path / "out")
    assert len([image for image in page.all("img") if image["src"].startswith("data:image/gif")]) == 1
    assert [link["href"] for link in page.all("a") if "download" not in link] == ["../large/gifs/grid.gif"]


def test_video_of_two_agents_is_shown_where_both_are_compared(new_run, tmp_path):
    """Its name has the other run's folder, so that it is shown for that run alone."""
    other = {"settings": {"method": {"name": "blip", "total_bits": 8}}}
    run, others = new_run("run"), [new_run("other", agent="ewc"), new_run("third", agent="ewc", **other)]
    (run / "gifs").mkdir(parents=True)
    (run / "gifs" / "versus-other.gif").write_bytes(b"GIF89a")
    page, _ = read([run, *others], out=tmp_path / "page")
    shown = [image["alt"] for image in page.all("img") if image["src"].startswith("data:image/gif")]
    assert shown == ["Video grid of blip and ewc, total_bits=20: one row per agent, one column per game"]


def test_file_that_is_no_gif_is_left_out(new_run):
    run = new_run("blip0")
    (run / "gifs").mkdir()
    (run / "gifs" / "grid.gif").write_bytes(b"<svg onload=alert(1)>")
    page, written = read(run)
    assert written.problems == (("pictures", "gifs/grid.gif is not a GIF: left out"),)
    assert "image/gif" not in "".join(image["src"] for image in page.all("img"))


def test_a_run_that_was_scored_at_its_start_alone_gives_a_page(new_run):
    """All points of the curve are at step 0; the end of the run is far to the right of them."""
    path = new_run("blip", logs=False)
    (path / "scores.csv").write_text(
        "\n".join([",".join(made.SCORE_COLUMNS), *(f"0,1,start,kungfu,{e},0.5,9,0,0.05,greedy" for e in range(2))])
        + "\n"
    )
    made.write_table(path / "speed.csv", made.columns(made.SpeedRow), [[90_000, 1, 300, 800]])
    assert write_report([path]).page.is_file()


def test_a_group_with_a_partial_evaluation_and_a_run_without_any_gives_a_page(new_run, sketches, tmp_path):
    paths = [new_run("a"), new_run("b", seed=1)]
    for path, rows in zip(paths, ["500,1,start,kungfu,0,0.5,9,1,0.05,greedy\n", ""], strict=True):
        (path / "scores.csv").write_text(",".join(made.SCORE_COLUMNS) + "\n" + rows)
    assert write_report(paths, out=tmp_path / "page").page.is_file()
