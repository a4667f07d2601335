"""Resuming multitask training: results are byte-identical to those of an uninterrupted run."""

import os
import signal

import pytest

from blip_rl.errors import InterruptedRunError, UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.recipes import resolve
from blip_rl.run import train as train_module
from blip_rl.run.resume import newest_snapshot
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import train
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import (
    ATARI,
    CARTPOLES,
    assert_equal,
    broken_off,
    curves,
    killed_at,
    resume_run,
    run_files,
    small_run,
)

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")
ATARI_GAMES = {"games": "pong,boxing", "steps": "128", "overrides": ATARI}
DIFFERENT_LENGTHS = """
description = "one task is longer"

[[tasks]]
name = "short"
game = "CartPole-v1"
steps = 200
observation_mix_seed = 1

[[tasks]]
name = "long"
game = "CartPole-v1"
steps = 640
observation_mix_seed = 2
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: 8 updates of two alternating tasks."""
    return train(small_run("multitask"), out=tmp_path_factory.mktemp("whole") / "run", threads=1, quiet=True)


POINTS = {
    "before its first step": (TrainingCallback, "_on_training_start", 1, True),
    "before the first snapshot": (snapshots, "save", 1, False),
    "right after the first snapshot": (snapshots, "save", 1, True),
    "in the second task's first update": (ContinualPPO, "_update", 10, False),
    "between two updates": (ContinualPPO, "train", 3, True),
    "after the games of one task have started anew": (ContinualPPO, "restart_games", 1, True),
    "before the second snapshot": (snapshots, "save", 2, False),
    "right after the second snapshot": (snapshots, "save", 2, True),
    "in a periodic evaluation": (ScoreBook, "_play", 3, True),
    "with half of an evaluation's rows written": (RunFolder, "add_scores", 3, True),
    "after learning, before it is saved": (snapshots, "save", 4, False),
    "after learning": (train_module, "consolidate", 1, False),
    "after consolidation": (train_module, "save_stage", 1, False),
    "at the end": (train_module, "save_stage", 1, True),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_once_equals_an_uninterrupted_run(point, whole, tmp_path):
    run = broken_off(tmp_path / "run", *POINTS[point], agent="multitask")
    assert run_files(run) != run_files(whole)
    assert_equal(resume_run(run), whole)


def test_a_run_killed_five_times_shows_no_seam(whole, tmp_path):
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 4, agent="multitask")
    later = [
        (ContinualPPO, "_update", 9, True),
        (snapshots, "save", 1, True),
        (ContinualPPO, "train", 4, True),
        (train_module, "consolidate", 1, False),
    ]
    for point in later:
        with killed_at(*point):
            resume_run(run)
    assert_equal(resume_run(run), whole)
    assert [step for step, _ in curves(run)["train/learning_rate"]] == list(range(128, 1025, 128))


@pytest.mark.parametrize("update", [1, 3, 4, 7])
def test_a_run_asked_to_stop_resumes_from_the_same_update(update, whole, tmp_path, monkeypatch):
    """Also if one task has taken more steps than the other since the last reset."""
    updates, train_once, run = [], ContinualPPO.train, tmp_path / "run"

    def interrupted(agent):
        updates.append(agent.num_timesteps)
        if len(updates) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        train_once(agent)

    with monkeypatch.context() as patch:
        patch.setattr(ContinualPPO, "train", interrupted)
        with pytest.raises(InterruptedRunError, match=f"saved at step {128 * update}; resume with") as stopped:
            train(small_run("multitask"), out=run, threads=1, quiet=True)
    assert stopped.value.signal_number == signal.SIGTERM
    assert len(updates) == update
    played = [len(games.actions) for games in newest_snapshot(RunFolder(run)).games]
    assert sum(played) == 32 * (update % 2)  # at every second update all games start anew
    assert_equal(resume_run(run), whole)


def test_tasks_of_different_lengths_continue_in_their_order(tmp_path):
    recipe = tmp_path / "lengths.toml"
    recipe.write_text(DIFFERENT_LENGTHS)
    config = resolve(str(recipe), "multitask", overrides=CARTPOLES)
    never_left = train(config, out=tmp_path / "whole", threads=1, quiet=True)
    run = tmp_path / "run"
    with killed_at(ContinualPPO, "train", 6):
        train(config, out=run, threads=1, quiet=True)
    assert_equal(resume_run(run), never_left)
    assert curves(run)["train/learning_rate"][-1][0] == (2 + 5) * 128


def test_another_number_of_tasks_does_not_fit(tmp_path):
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 3, agent="multitask")
    text = (run / "config.toml").read_text()
    first, *tasks = text.split("[[tasks]]")
    (run / "config.toml").write_text("[[tasks]]".join([first, tasks[1]]))
    with pytest.raises(UserError, match="1 stages: the run is at stage 2"):
        resume_run(run, accept_changes=True)


@pytest.mark.slow
def test_an_atari_run_killed_in_the_middle_of_its_games(tmp_path):
    never_left = train(small_run("multitask", **ATARI_GAMES), out=tmp_path / "whole", threads=1, quiet=True)
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 5, agent="multitask", **ATARI_GAMES)
    with killed_at(ContinualPPO, "train", 2):
        resume_run(run)
    assert_equal(resume_run(run), never_left)
