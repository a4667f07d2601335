"""Progress of a training: speed, remaining time, and the lines of a log file."""

import re

import pytest

from blip_rl import console as console_module
from blip_rl.console import Console
from blip_rl.reporting.live import RunWatch
from blip_rl.reporting.run_record import load_run
from blip_rl.run import progress as progress_module
from blip_rl.run.progress import Progress
from blip_rl.run.train import train
from tests.small_runs import small_config


@pytest.fixture
def clock(monkeypatch):
    moment = [1_000.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: moment[0])
    monkeypatch.setattr(console_module.time, "monotonic", lambda: moment[0])
    return moment


def test_line_shows_steps_rate_and_remaining_time(clock, capsys):
    progress = Progress(
        "boxing (2/6)",
        1_000,
        began_at=5_000,
        env_steps=5_200,  # resumed
        later_steps=4_000,
        console=Console(False, "log"),
    )
    clock[0] += 20
    with progress.paused():
        clock[0] += 20
    progress.show(5_400, {"return": "12.3"})
    progress.show(5_400, {})  # within 30 s of the last line
    progress.show_evaluation(5_400, {}, "boxing 3.00")
    first, second = (line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines())
    # 200 steps took 20 s of training and 20 s of evaluation: 10 steps/s, and 0.2 s a step in all.
    assert first == ("boxing (2/6): 400 of 1,000 steps (40%), 10 steps/s, 2 min left, 15 min for the run, return 12.3")
    assert second.endswith("; evaluated: boxing 3.00")


def test_last_task_shows_one_remaining_time(clock, capsys):
    progress = Progress("pong (1/1)", 100, began_at=0, env_steps=0, later_steps=0, console=Console(False, "log"))
    clock[0] += 40
    progress.show(128, {})  # the last rollout may exceed the steps
    (line,) = (line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert line == "pong (1/1): 100 of 100 steps (100%), 3 steps/s, 0 s left"


def test_training_writes_a_line_at_each_evaluation(tmp_path, capsys):
    train(small_config(games="cartpole-a", steps="1024"), out=tmp_path / "run", progress="log")
    lines = [line for line in capsys.readouterr().out.splitlines() if "evaluated: cartpole-a " in line]
    assert len(lines) == 1
    assert re.match(r"\d\d:\d\d:\d\d  cartpole-a \(1/1\): 512 of 1,024 steps \(50%\), ", lines[0])
    assert "return " in lines[0]
    assert "bits frozen 0.00" in lines[0]


@pytest.mark.parametrize("agent", ["finetune", "blip-distil", "multitask"])
def test_steps_of_whole_rollouts_are_the_total_from_the_beginning_and_everywhere(agent, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console_module, "LINE_SECONDS", 0.0)
    distil = ["distil.teacher_states=101", "distil.student_states=50", "distil.updates=4"]
    config = small_config(agent, steps="1000", overrides=distil if agent == "blip-distil" else ())
    run, looks = tmp_path / "run", []
    show = Progress.show

    def look(progress, env_steps, metrics):
        show(progress, env_steps, metrics)
        looks.append((env_steps, RunWatch(run).look()))

    monkeypatch.setattr(Progress, "show", look)
    train(config, out=run, progress="log")
    lines = capsys.readouterr().out.splitlines()
    taken = RunWatch(run).look().env_steps
    # A rollout has 4 × 32 steps. Distilling takes 104 + 52 steps of 4 environments, and leaves 849 to learn.
    assert taken == {"finetune": 2 * 1024, "blip-distil": 2 * (896 + 156), "multitask": 2 * 1024}[agent]
    rounded = "each rounded up to whole rollouts of 128"
    assert lines[0] == f"{agent} learns cartpole-a, cartpole-b: {taken:,} steps ({rounded}) on cpu, seed 0"
    assert f"{taken:,} of {taken:,} steps (100%), finished" in RunWatch(run).look().line
    assert config.all_played_steps == load_run(run).planned_steps == load_run(run).env_steps == taken
    totals = {"finetune": {1024}, "blip-distil": {896}, "multitask": {2048}}[agent]
    shown = [re.search(r": ([\d,]+) of ([\d,]+) steps \((\d+)%\)", line) for line in lines]
    counts = [tuple(int(number.replace(",", "")) for number in found.groups()) for found in shown if found]
    assert {total for _, total, _ in counts} == totals
    assert all(percent == round(100 * done / total) for done, total, percent in counts)
    assert {state.total_steps for _, state in looks} == {taken}
