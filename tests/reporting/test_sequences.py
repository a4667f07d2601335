"""Tests of which runs are comparable, and of pages over runs that are not."""

from __future__ import annotations

import re

import pytest
import tomli_w

from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.scores import load_config
from blip_rl.reporting.sequences import NORMALISERS, comparable_runs, differences
from tests.reporting.report_runs import make_run

pytestmark = pytest.mark.usefixtures("sketches")

OTHER = {
    "games": {"games": ("boxing", "kungfu", "krull")},
    "steps": {"steps": 2000},
    NORMALISERS: {"reference": 20.0},
}


def changed(run, section, **values):
    config = load_config(run)
    config[section] = {**config.get(section, {}), **values}
    (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    return run


@pytest.mark.parametrize("aspect", OTHER)
def test_differences_between_tasks_are_named(tmp_path, aspect):
    first, other = make_run(tmp_path / "first"), make_run(tmp_path / "other", **OTHER[aspect])
    assert differences(load_config(first), load_config(other)) == [aspect]
    assert len(comparable_runs([load_run(first), load_run(other)])) == 2


@pytest.mark.parametrize("change", [{"mode": 1}, {"difficulty": 1}, {"wrappers": ["a:B"]}])
def test_a_game_in_another_mode_or_wrapper_is_another_game(tmp_path, change):
    first, other = make_run(tmp_path / "first"), make_run(tmp_path / "other")
    config = load_config(other)
    config["tasks"][0] |= change
    (other / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    assert differences(load_config(first), load_config(other)) == ["games"]


@pytest.mark.parametrize(
    ("section", "values", "aspect"),
    [
        ("evaluation", {"actions": "stochastic"}, "choice of actions in evaluations"),
        ("evaluation", {"max_episode_steps": 7}, "longest episode in evaluations"),
        ("atari", {"frame_skip": 2}, "preprocessing of Atari"),
    ],
)
def test_differences_in_evaluation_are_named(tmp_path, section, values, aspect):
    first, other = make_run(tmp_path / "first"), changed(make_run(tmp_path / "other"), section, **values)
    assert differences(load_config(first), load_config(other)) == [aspect]


def test_runs_of_other_agents_and_seeds_are_comparable(tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", agent="finetune", seed=3, stages=1, settings={"description": "x"}),
    ]
    assert len(comparable_runs([load_run(run) for run in runs])) == 1


def test_run_without_a_config_is_put_into_the_first_part(tmp_path):
    runs = [make_run(tmp_path / name, **more) for name, more in (("a", {}), ("b", {"steps": 9}), ("c", {}))]
    (runs[2] / "config.toml").unlink()
    parts = comparable_runs([load_run(run) for run in (runs[2], *runs[:2])])
    assert [[run.path.name for run in part] for part in parts] == [["c", "a"], ["b"]]
    (only,) = comparable_runs([load_run(runs[2])])
    assert [run.path.name for run in only] == ["c"]


def test_each_sequence_has_its_own_part_of_the_page(tmp_path):
    runs = [make_run(tmp_path / f"short{seed}", seed=seed, logs=False, bits=False) for seed in range(2)]
    runs += [make_run(tmp_path / "long", steps=2000, logs=False, bits=False)]
    runs += [make_run(tmp_path / "one", games=("boxing",), logs=False, bits=False)]
    html = write_report(runs, out=tmp_path / "out").page.read_text(encoding="utf-8")
    assert "part 2 differs from part 1 in steps" in html
    assert "part 3 differs from part 1 in games" in html
    anchors = re.findall(r'<section id="([^"]+)"', html)
    assert len(anchors) == len(set(anchors)) == 3 * 11 + 1
    titles = re.findall(r'<h1 class="part-title">(.*)</h1>', html)
    assert [title.partition(":")[0] for title in titles] == ["Part 1", "Part 2", "Part 3"]
    assert titles[1].endswith("2k per game")
    first, second, third = (html.index(f'<section id="part-{number}-summary"') for number in (1, 2, 3))
    assert "2 seeds, no interval" in html[first:second]
    assert "one seed" in html[second:third]
    assert "2 seeds" not in html[second:]


def test_scores_are_rescaled_within_their_part(tmp_path):
    """Without normalisers scores are rescaled by the returns seen: those of the part."""
    bare = make_run(tmp_path / "bare", normalisers=False, logs=False, bits=False)
    whole = make_run(tmp_path / "whole", logs=False, bits=False)
    html = write_report([whole, bare], out=tmp_path / "out").page.read_text(encoding="utf-8")
    part_1, part_2 = html.split('<section id="part-2-run"')
    assert "rescaled" not in part_1
    assert "The recipe has no game with both a random and a reference score." in part_2
    alone = write_report([whole], out=tmp_path / "alone").page.read_text(encoding="utf-8")
    tiles = re.compile(r'<p class="value">(.*)</p>')
    assert tiles.findall(part_1) == tiles.findall(alone)


def test_observed_normalisation_ignores_different_reference_scores(tmp_path):
    runs = [make_run(tmp_path / "a", logs=False, bits=False)]
    runs += [make_run(tmp_path / "b", agent="finetune", reference=20.0, logs=False, bits=False)]
    html = write_report(runs, out=tmp_path / "out", normalize="observed").page.read_text(encoding="utf-8")
    assert "part-2-" not in html
    html = write_report(runs, out=tmp_path / "out").page.read_text(encoding="utf-8")
    assert f"part 2 differs from part 1 in {NORMALISERS}" in html
