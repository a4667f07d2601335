"""``blip-rl watch``: what it prints, when it ends and with which exit code."""

import os
import time

import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.cli import watch as watch_module
from blip_rl.cli.watch import Display
from blip_rl.errors import RunError
from blip_rl.reporting.live import RunState, Score
from blip_rl.storage.step_counter import write_steps
from tests.reporting.report_runs import make_run
from tests.test_cli_startup import LEARNING, imported


def state(env_steps, status="running", score=1.0):
    return RunState(status, "pong (1/1)", env_steps, 1_000, 10.0, {"pong": Score(score, score)}, 0.0)


@pytest.fixture
def finished(tmp_path):
    run = make_run(tmp_path / "finished")
    for stage in range(1, 4):
        (run / "checkpoints" / f"stage-{stage:02d}").mkdir(parents=True, exist_ok=True)
    return run


@pytest.fixture
def stopped(tmp_path):
    run = make_run(tmp_path / "stopped", stages=1)
    write_steps(run, 1_500)
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 600,) * 2)
    return run


def test_a_finished_run_gets_one_line_and_exit_code_0(finished):
    result = CliRunner().invoke(cli, ["watch", str(finished)])
    assert result.exit_code == 0, result.output
    title, line = result.stdout.splitlines()
    assert title == f"{finished}: blip learns kungfu, boxing, krull, seed 0"
    assert "3,000 of 3,000 steps (100%), finished; scores kungfu " in line


def test_a_stopped_run_is_an_error_with_the_command_that_resumes_it(finished, stopped):
    result = CliRunner().invoke(cli, ["watch", str(finished), str(stopped)])
    assert isinstance(result.exception, RunError)  # exit code 1
    assert f"blip-rl train --resume {stopped}" in str(result.exception)
    assert "boxing (2/3), stopped: not written for 10 min" in result.stdout
    assert str(finished) not in str(result.exception)


def test_a_running_run_is_followed_until_it_is_finished(finished, monkeypatch):
    snapshot = finished / "checkpoints" / "step-000000003000"
    snapshot.mkdir()
    monkeypatch.setattr(watch_module.time, "sleep", lambda seconds: snapshot.rmdir())
    result = CliRunner().invoke(cli, ["watch", str(finished)])
    assert result.exit_code == 0
    _, first, last = result.stdout.splitlines()
    assert "finished" not in first
    assert "finished" in last


def test_no_run_is_bad_input(tmp_path):
    result = CliRunner().invoke(cli, ["watch", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1
    assert "is not a run folder" in result.stderr


def test_watch_imports_no_torch(finished):
    assert imported([["watch", str(finished)]], LEARNING, finished.parent) == [f"{['watch', str(finished)]} 0 []"]


def test_lines_follow_every_30_seconds_and_with_new_scores(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock[0])
    display = Display(["a", "run-b"])
    for seconds, first, second in ((0, 1.0, 1.0), (29, 1.0, 2.0), (1, 1.0, 2.0)):
        clock[0] += seconds
        display.show([state(100, score=first), state(200, score=second)])
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert [line.split("  ")[0].strip() for line in lines] == ["a", "run-b", "run-b", "a"]


def test_terminal_display_is_replaced_in_place_and_cut_to_its_width(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    display = Display(["run"])
    display.show([state(500)])
    display.show([state(1_000, "finished")])
    first, second = capsys.readouterr().out.split("\x1b[2F\x1b[J")
    assert first.startswith("█" * 10 + "░" * 10 + "  50%  pong")
    assert second.startswith("█" * 20 + " 100%  finished\npong 1.00 (1.00)")
    assert all(len(line) < 40 for line in (first + second).splitlines())


def test_control_characters_of_a_strangers_run_are_escaped(capsys):
    shown = RunState("running", "\x1b[2Jpong (1/1)", 1, 10, 1.0, {}, 0.0)
    Display(["\x1bname", "b"]).show([shown, shown])
    assert "\x1b" not in capsys.readouterr().out
