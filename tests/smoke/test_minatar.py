"""Two MinAtar games through the whole run: learned, killed and resumed, scored by worker processes, rendered."""

import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image

from blip_rl.cli import program
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.reporting import heatmaps
from blip_rl.reporting.scores import load_scores
from blip_rl.run.train import resume, train
from blip_rl.sb3.export import export_run
from tests.run.broken_off import assert_equal, killed_at, small_run
from tests.sb3.test_export import play_elsewhere, play_here

GAMES = "minatar-seaquest,minatar-breakout"
SMALL = (
    "ppo.environments=8",
    "ppo.rollout_steps=32",
    "ppo.minibatches=4",
    "ppo.epochs=1",
    "trunk.image.hidden=[16]",
    "evaluation.episodes=2",
    "evaluation.every_steps=1k",
    "evaluation.max_episode_steps=200",
    "checkpoint.every_steps=768",
    "method.fisher_samples=64",
)


def run(path):
    return train(small_run(games=GAMES, steps="2048", overrides=SMALL), out=path, threads=1, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))
        return run(tmp_path_factory.mktemp("minatar") / "run")


def test_two_games_share_a_trunk(whole):
    after = load_scores(whole).after
    assert np.isfinite(after[np.tril_indices(2)]).all()


def test_a_killed_run_resumes_exactly(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))
    with killed_at(ContinualPPO, "train", 13):  # in the second game, after a snapshot
        run(tmp_path / "run")
    assert_equal(resume(tmp_path / "run", threads=1, quiet=True), whole)


def test_worker_processes_score_and_render_it(whole):
    from blip_rl.evaluation.rescore import evaluate_run
    from blip_rl.video.options import RenderOptions
    from blip_rl.video.render import render_run

    before = load_scores(whole).after
    evaluate_run(whole, workers=2)
    np.testing.assert_array_equal(load_scores(whole).after, before)
    render_run(whole, options=RenderOptions(episodes=1, seconds=1.0), workers=1)
    with Image.open(next((whole / "gifs").glob("*breakout*.gif"))) as film:
        assert film.is_animated


def test_an_exported_agent_plays_the_same_episode_without_blip_rl(whole, tmp_path):
    _, breakout = export_run(whole, out=tmp_path)  # Seaquest may not end: a submarine at the surface needs no oxygen
    assert play_elsewhere(breakout.usage, tmp_path) == play_here(whole, 2, "minatar-breakout")


def test_a_missing_package_is_one_message_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "minatar" else find(name, *a))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["blip-rl", "train", "--games", "minatar5", "--out", "run"])
    assert program._run() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "minatar5.toml: its games need the package MinAtar" in line
    assert "pip install " in line
    assert line.endswith("[minatar]'")
    assert not list(tmp_path.iterdir())
