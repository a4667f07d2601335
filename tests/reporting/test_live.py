"""State of a run that is being written: steps, speed, remaining time, newest scores, and whether it still runs."""

import json
import os
import subprocess
import sys
import time

import pytest

from blip_rl.errors import UserError
from blip_rl.reporting.live import RECENT_SECONDS, RELEASED_SECONDS, RunWatch
from blip_rl.storage.lock import locked
from blip_rl.storage.step_counter import STEP_COUNTER, write_steps
from tests.reporting.report_runs import GAMES, STEPS

HOLD = """
import sys
from pathlib import Path
from blip_rl.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def running(new_run):
    """A run that has learned one of three games and is being trained on the second."""
    run = new_run("run", stages=1)
    write_steps(run, 1_500)
    return run


def count(run, env_steps, seconds_ago):
    """Store a number of steps as if it had been written some seconds ago."""
    write_steps(run, env_steps)
    os.utime(run / STEP_COUNTER, (time.time() - seconds_ago,) * 2)


def age(run, seconds):
    """Make every file of a run older."""
    for path in run.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_running_training_shows_task_steps_and_newest_scores(running):
    state = RunWatch(running).look()
    assert (state.status, state.learning) == ("running", "boxing (2/3)")
    assert (state.env_steps, state.total_steps, state.share) == (1_500, 3 * STEPS, 0.5)
    assert state.scores["kungfu"].mean_return == pytest.approx(10.0)
    assert state.scores["kungfu"].normalised == pytest.approx(1.0)
    assert "kungfu 10.0 (1.00)" in state.line


def test_speed_is_measured_between_looks_and_gives_the_remaining_time(running):
    (running / "speed.csv").unlink(missing_ok=True)
    watch = RunWatch(running)
    count(running, 1_500, 20)
    first = watch.look()
    assert first.steps_per_second is None
    assert "speed not known yet" in first.line
    count(running, 1_700, 10)
    second = watch.look()
    assert second.steps_per_second == pytest.approx(20, rel=0.05)
    assert "20 steps/s, about 65 s left" in second.line


def test_speed_starts_again_when_a_run_is_resumed_at_an_earlier_step(running):
    watch = RunWatch(running)
    for env_steps, ago in ((1_500, 30), (1_700, 20), (1_400, 10), (1_500, 5)):
        count(running, env_steps, ago)
        state = watch.look()
    assert state.steps_per_second == pytest.approx(20, rel=0.05)


def test_counter_that_is_being_replaced_keeps_the_last_steps(running):
    watch = RunWatch(running)
    watch.look()
    (running / STEP_COUNTER).unlink()
    assert watch.look().env_steps == 1_500


def test_run_without_writes_is_stopped_unless_its_lock_is_held(running):
    age(running, RECENT_SECONDS + 60)
    stopped = RunWatch(running).look()
    assert stopped.status == "stopped"
    assert "boxing (2/3), stopped: not written for 2 min" in stopped.line
    command = [sys.executable, "-c", HOLD, str(running / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert RunWatch(running).look().status == "running"
        holder.stdin.close()


def test_run_whose_lock_is_free_is_stopped_after_seconds(running):
    with locked(running / ".lock"):
        age(running, RECENT_SECONDS + 60)
        assert RunWatch(running).look().status == "running"
    assert RunWatch(running).look().status == "stopped"
    age(running, RELEASED_SECONDS - 3)  # a new run locks its folder again a moment after it was created
    assert RunWatch(running).look().status == "running"
    age(running, RELEASED_SECONDS + 1)
    assert RunWatch(running).look().status == "stopped"


def test_run_that_was_killed_on_this_machine_is_stopped_after_seconds(running):
    command = [sys.executable, "-c", HOLD, str(running / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    age(running, RELEASED_SECONDS + 1)
    assert RunWatch(running).look().status == "stopped"


def test_run_of_another_machine_whose_locks_are_not_seen_counts_as_running_for_a_minute(running):
    (running / ".lock").write_text('{"host": "elsewhere", "pid": 1, "generation": 1, "token": "t"}')
    age(running, RECENT_SECONDS - 10)
    assert RunWatch(running).look().status == "running"
    age(running, RECENT_SECONDS + 1)
    assert RunWatch(running).look().status == "stopped"


def test_watching_neither_creates_nor_keeps_a_lock(running):
    age(running, 1_000)
    assert RunWatch(running).look().status == "stopped"
    assert not (running / ".lock").exists()
    (running / ".lock").touch()
    age(running, 1_000)
    assert RunWatch(running).look().status == "stopped"
    with locked(running / ".lock"):
        pass


def test_finished_run_is_complete(new_run):
    run = new_run("run")
    for stage in range(1, 4):
        (run / "checkpoints" / f"stage-{stage:02d}").mkdir(parents=True, exist_ok=True)
    age(run, 1_000)
    state = RunWatch(run).look()
    assert (state.status, state.share, list(state.scores)) == ("finished", 1.0, list(GAMES))
    (run / "checkpoints" / "step-000000003000").mkdir()  # the last snapshot goes when the run is finished
    assert RunWatch(run).look().status == "running"


def test_stages_follow_the_order_of_visits(running):
    text = (running / "config.toml").read_text()
    (running / "config.toml").write_text('order = ["kungfu", "boxing", "kungfu", "krull"]\ncycles = 2\n' + text)
    state = RunWatch(running).look()
    assert (state.learning, state.total_steps) == ("boxing (2/8)", 8 * STEPS)


@pytest.mark.parametrize(
    ("agent", "total"),
    [
        ({"ppo": {"environments": 8, "rollout_steps": 32}}, 3 * 1024),
        ({"ppo": {"environments": 8, "rollout_steps": 32}, "distil": {"teacher_states": 9, "student_states": 9}}, 3072),
        (
            {
                "ppo": {"environments": 8, "rollout_steps": 32},
                "learning": "distil",
                "distil": {"first_task": False, "teacher_states": 600, "student_states": 9},
            },
            1024 + 2 * (512 + 600 + 16),
        ),
        ({"ppo": {"environments": 0, "rollout_steps": 32}}, 3000),
        ({"ppo": {"environments": 10**12, "rollout_steps": 10**12}}, 3000),
        ({"ppo": "many"}, 3000),
    ],
)
def test_the_total_is_that_of_whole_rollouts_where_the_settings_can_be_read(agent, total, new_run):
    assert RunWatch(new_run("run", stages=1, settings=agent)).look().total_steps == total


def test_steps_never_exceed_their_total(running, new_run):
    write_steps(running, 3_100)
    assert "3,100 of 3,100 steps (100%)" in RunWatch(running).look().line
    scored = new_run("finished")
    for stage in range(1, 4):
        (scored / "checkpoints" / f"stage-{stage:02d}").mkdir(parents=True, exist_ok=True)
    saved = {"stage": 3, "env_steps": 2_500, "method": {}}
    (scored / "checkpoints" / "stage-03" / "stage.json").write_text(json.dumps(saved))
    (scored / "scores.csv").unlink()  # as after blip-rl import
    assert "2,500 of 2,500 steps (100%), finished" in RunWatch(scored).look().line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 3", "not a resolved recipe"),
        ('agent_name = "blip"\nseed = 0\ntasks = []', "not a resolved recipe"),
        ('agent_name = "blip"\nseed = 0\ncycles = 251\n[[tasks]]\nname = "a"', "not a resolved recipe"),
        ('agent_name = "blip"\nseed = 0\norder = ["b"]\n[[tasks]]\nname = "a"', "every task at least once"),
        ('agent_name = "blip"\nseed = 0\ncycles = 250\norder = ["a", "a"]\n[[tasks]]\nname = "a"', "at most 250"),
    ],
)
def test_recipe_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        RunWatch(tmp_path)


def test_hostile_files_are_left_out(running):
    os.mkfifo(running / "pipe")
    with pytest.raises(UserError, match="is a pipe"):
        RunWatch(running)
    (running / "pipe").unlink()
    watch = RunWatch(running)
    for name in (STEP_COUNTER, "scores.csv", "speed.csv"):  # replaced while the run is watched
        (running / name).unlink(missing_ok=True)
        os.mkfifo(running / name)
    state = watch.look()
    assert (state.env_steps, state.scores) == (0, {})
    for name in (STEP_COUNTER, "scores.csv", "speed.csv"):
        (running / name).unlink()
        (running / name).write_bytes(b"\xff," * 100)
    assert watch.look().env_steps == 0


def test_scores_of_the_other_action_selection_are_not_mixed_in(new_run):
    path = new_run("a")
    before = RunWatch(path).look().scores
    greedy = (path / "scores.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    last = [row for row in greedy if ",after," in row]
    again = [row.replace("greedy", "stochastic").replace(",9,", ",99,") for row in last]
    again = [",".join([*row.split(",")[:5], "-100.0", *row.split(",")[6:]]) for row in again]
    (path / "scores.csv").write_text("".join([*greedy, *again]), encoding="utf-8")
    assert RunWatch(path).look().scores == before
