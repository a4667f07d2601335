"""The learning curves of a run: means of finished training episodes, and a score of each task before its first step."""

import csv
import hashlib
import json
import os
import signal

import numpy as np
import pytest

from blip_rl.errors import InterruptedRunError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.resume import newest_snapshot
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import train
from blip_rl.storage import returns
from blip_rl.storage.returns import TrainingReturns, interval_steps
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import assert_equal, broken_off, resume_run, run_files, settings, small_run

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


def rows(run, name="returns.csv"):
    with (run / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(small_run(), out=tmp_path_factory.mktemp("whole") / "run", threads=1, quiet=True)


@pytest.mark.parametrize("agent", ["blip", "multitask"])
def test_a_row_holds_the_episodes_that_finished_since_the_row_before(agent, tmp_path, monkeypatch):
    """Rewards of CartPole are 1, so an episode's return is its length: counted here from rewards and ends.

    The first episodes of a training count when each environment has finished one.
    """
    finished, lengths, add, held, ended = [], {}, ContinualPPO._update_info_buffer, {}, {}

    def counting(agent, infos, dones):
        task = agent.policy.current_name
        playing = lengths.setdefault(task, np.zeros(agent.n_envs))
        playing += 1
        waiting = held.setdefault(task, [])
        waiting.extend(playing[dones].tolist())
        ended.setdefault(task, set()).update(np.flatnonzero(dones))
        if len(ended[task]) == agent.n_envs:
            finished.extend((agent.num_timesteps, task, length) for length in waiting)
            waiting.clear()
        playing[dones] = 0
        add(agent, infos, dones)

    config = small_run(agent, overrides=(*settings(agent), "checkpoint.every_steps=10k"))
    monkeypatch.setattr(returns, "_MOST_ROWS", 2)  # every 256 steps of 512; of 1024 where both tasks share the steps
    with monkeypatch.context() as patch:
        patch.setattr(ContinualPPO, "_update_info_buffer", counting)
        found = rows(train(config, out=tmp_path / "run", threads=1, quiet=True))
    width = 512 if agent == "multitask" else 256
    expected = {}
    for step, task, length in finished:
        expected.setdefault((-(-step // width) * width, task), []).append(length)
    assert {(int(r["env_steps"]), r["task"]): (int(r["episodes"]), float(r["mean_return"])) for r in found} == {
        key: (len(scores), sum(scores) / len(scores)) for key, scores in expected.items()
    }
    assert len(found) >= 3
    stages = ["2" if agent == "multitask" or int(r["env_steps"]) > 512 else "1" for r in found]
    assert [r["stage"] for r in found] == stages


@pytest.mark.parametrize(("steps", "rollout"), [(1, 128), (512, 128), (10_000_000, 1024), (500_000, 2048)])
def test_a_task_has_at_most_200_rows_of_whole_rollouts(steps, rollout):
    width = interval_steps(steps, rollout)
    assert width % rollout == 0
    assert -(-steps // width) <= 200
    assert width == rollout or -(-steps // (width - rollout)) >= 200


def test_episodes_between_two_rows_survive_a_stop(tmp_path, monkeypatch):
    """Stopped in the middle of an interval: the snapshot holds the episodes not yet written to a row."""
    monkeypatch.setattr(returns, "_MOST_ROWS", 1)
    never_left = train(small_run(), out=tmp_path / "whole", threads=1, quiet=True)
    updates, train_once, run = [], ContinualPPO.train, tmp_path / "run"

    def interrupted(agent):
        updates.append(None)
        if len(updates) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        train_once(agent)

    with monkeypatch.context() as patch:
        patch.setattr(ContinualPPO, "train", interrupted)
        with pytest.raises(InterruptedRunError):
            train(small_run(), out=run, threads=1, quiet=True)
    assert rows(run) == []
    assert newest_snapshot(RunFolder(run)).returns["cartpole-a"][0] > 0
    assert_equal(resume_run(run), never_left)


def test_a_run_of_an_earlier_version_resumes_and_creates_the_table(tmp_path):
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 7)
    (run / "returns.csv").unlink()
    for path in RunFolder(run).snapshots():
        facts = json.loads((path / "snapshot.json").read_text())
        del facts["returns"], facts["evidence"]["files"]["returns.csv"]
        (path / "snapshot.json").write_text(json.dumps(facts))
        sums = json.loads((path / "digests.json").read_text())
        sums["snapshot.json"] = hashlib.sha256((path / "snapshot.json").read_bytes()).hexdigest()
        (path / "digests.json").write_text(json.dumps(sums))
    found = rows(resume_run(run))
    assert {row["task"] for row in found} == {"cartpole-b"}
    assert all(int(row["env_steps"]) > 768 for row in found)


# --- scores before the first step


def test_every_task_is_scored_once_before_its_first_step(whole):
    found = [row for row in rows(whole, "scores.csv") if row["phase"] == "start"]
    assert [(row["env_steps"], row["stage"], row["task"]) for row in found] == [
        ("0", "1", "cartpole-a"),
        ("0", "1", "cartpole-a"),
        ("512", "2", "cartpole-b"),
        ("512", "2", "cartpole-b"),
    ]


def test_tasks_learned_together_are_all_scored_before_the_first_step(tmp_path):
    run = train(small_run("multitask"), out=tmp_path / "run", threads=1, quiet=True)
    found = [row for row in rows(run, "scores.csv") if row["phase"] == "start"]
    assert [(row["env_steps"], row["task"]) for row in found[::2]] == [("0", "cartpole-a"), ("0", "cartpole-b")]
    assert len(found) == 4


def test_scoring_first_changes_nothing_that_is_learned_or_scored_later(whole, tmp_path):
    config = small_run(overrides=(*settings("blip"), "evaluation.before_training=false"))
    without = train(config, out=tmp_path / "run", threads=1, quiet=True)
    first, second = run_files(whole), run_files(without)
    assert {name for name in first if first[name] != second[name]} == {"scores.csv"}
    assert rows(without, "scores.csv") == [r for r in rows(whole, "scores.csv") if r["phase"] != "start"]


@pytest.mark.parametrize(
    "point",
    [(ScoreBook, "evaluate_start", 2), (RunFolder, "add_scores", 5, True)],
    ids=["before it", "its rows written, not saved"],
)
def test_a_kill_around_the_second_tasks_first_score(point, whole, tmp_path):
    assert_equal(resume_run(broken_off(tmp_path / "run", *point)), whole)


def test_a_stop_just_after_the_first_score_does_not_score_twice(whole, tmp_path, monkeypatch):
    run, start = tmp_path / "run", ScoreBook.evaluate_start

    def stopped(book, policy, stage, *others):
        start(book, policy, stage, *others)
        if stage == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreBook, "evaluate_start", stopped)
        with pytest.raises(InterruptedRunError, match="saved at step 512"):
            train(small_run(), out=run, threads=1, quiet=True)
    assert_equal(resume_run(run), whole)


def test_episodes_count_when_each_environment_has_finished_one_since_a_restart(tmp_path):
    """Of 4 environments, three end at once with 1 and the last one later with 9: no row of 1 alone."""
    folder = RunFolder(tmp_path)
    folder.reset_tables()
    found = TrainingReturns(folder)
    found.restarted("a", 4)
    for environment, score in ((0, 1.0), (1, 1.0), (2, 1.0), (0, 3.0)):
        found.add("a", environment, score)
    found.write(1, 100)
    found.add("a", 3, 9.0)
    found.add("a", 0, 5.0)  # counts at once from here on
    found.write(1, 200)
    found.restarted("a", 4)
    found.add("a", 1, 2.0)
    found.restarted("a", 4)  # what was held back counts: no episode is lost
    found.add("a", 2, 4.0)
    found.write(1, 300)
    found.release()
    found.write(1, 400)
    assert [(int(r["env_steps"]), int(r["episodes"]), float(r["mean_return"])) for r in rows(tmp_path)] == [
        (200, 6, 20 / 6),
        (300, 1, 2.0),
        (400, 1, 4.0),
    ]
