"""Number of episodes of a periodic evaluation: whole ones, within its share of steps."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

from blip_rl.console import Console
from blip_rl.evaluation.episodes import Episode
from blip_rl.methods.base import Method
from blip_rl.recipes import dump_run_config
from blip_rl.run import scores as module
from blip_rl.run.interruption import StopRequest
from blip_rl.run.plasticity import PlasticityRecorder
from blip_rl.run.scores import ScoreBook
from blip_rl.storage.run_folder import RunFolder
from tests.small_runs import small_config

SHARE = ("evaluation.every_steps=1000", "evaluation.periodic_share=1.0", "evaluation.episodes=8")


@pytest.fixture
def asked(monkeypatch):
    """(task, episodes, step limit) of every evaluation; each episode takes ``lasting`` steps."""
    calls = []

    def play(policy, method, task, config, evaluation, budget, on_games_over):
        calls.append((task.name, evaluation.episodes, budget))
        length = play.lasting[task.name]
        return [Episode(1.0, length, False)] * evaluation.episodes

    play.lasting = {"cartpole-a": 100, "cartpole-b": 40}
    calls_and_lengths = calls, play.lasting
    monkeypatch.setattr(module, "evaluate_task", play)
    monkeypatch.setattr(module, "with_head_for", lambda policy, task, config: policy)
    monkeypatch.setattr(PlasticityRecorder, "record", lambda *_: None)
    return calls_and_lengths


def book(tmp_path, *extra):
    config = small_config(overrides=(*SHARE, *extra))
    folder = RunFolder(tmp_path / "run")
    if not folder.path.exists():
        folder.create(dump_run_config(config), "cpu", {})
    logger, method = Logger(None, []), Method()
    plasticity = PlasticityRecorder(folder, logger, method)
    return ScoreBook(config, folder, logger, Console(True), method, StopRequest(), plasticity), folder


def test_a_task_of_unknown_length_gets_all_its_games_and_a_known_one_as_many_as_fit(tmp_path, asked):
    calls, lasting = asked
    scores, _ = book(tmp_path)
    scores.evaluate(None, 1, "periodic", 1000)
    assert calls.pop() == ("cartpole-a", 8, 4000)
    scores.evaluate(None, 2, "periodic", 2000)  # 500 decisions each: five games of 100
    assert calls == [("cartpole-a", 5, 2000), ("cartpole-b", 8, 2000)]
    calls.clear()
    lasting["cartpole-a"] = 10_000
    scores.evaluate(None, 2, "periodic", 3000)
    scores.evaluate(None, 2, "periodic", 4000)
    assert [games for name, games, _ in calls if name == "cartpole-a"] == [5, 1]


def test_the_scores_of_a_boundary_play_all_games_to_their_end(tmp_path, asked):
    calls, lasting = asked
    lasting["cartpole-a"] = 10_000
    scores, _ = book(tmp_path)
    scores.evaluate(None, 1, "periodic", 1000)
    for phase in ("before", "after"):
        scores.evaluate(None, 1, phase, 2000)
    assert calls[1:] == [("cartpole-a", 8, None)] * 2


def test_a_resumed_run_plays_as_many_games_as_an_uninterrupted_one(tmp_path, asked):
    calls, _ = asked
    scores, folder = book(tmp_path)
    scores.evaluate(None, 2, "periodic", 2000)
    again, _ = book(tmp_path)
    again.restore(folder.read_scores())
    for one in (scores, again):
        one.evaluate(None, 2, "periodic", 3000)
    assert calls[2:4] == calls[4:6] == [("cartpole-a", 5, 2000), ("cartpole-b", 8, 2000)]


def test_an_infinite_share_is_no_limit(tmp_path, asked):
    calls, lasting = asked
    lasting["cartpole-a"] = 27_000
    scores, _ = book(tmp_path, "evaluation.periodic_share=1e300")
    for step in (1000, 2000):
        scores.evaluate(None, 1, "periodic", step)
    assert [games for _, games, _ in calls] == [8, 8]
    assert np.isfinite(calls[0][2])
