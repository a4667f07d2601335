"""Closed or unwritable standard streams: no traceback, correct exit code, no data lost."""

import os
import subprocess
import sys

import pytest

from blip_rl.console import Console
from tests.run.broken_off import CARTPOLES, command

FULL = "/dev/full"
pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="needs /dev/full")  # noqa: PTH110


def shell(arguments, redirections, folder):
    """Run the program with redirected streams; return the exit code and the output on open streams."""
    words = " ".join(f"'{word}'" for word in arguments)
    done = subprocess.run(
        ["sh", "-c", f"{words} {redirections}"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def blip_rl(*arguments):
    return [sys.executable, "-m", "blip_rl", *arguments]


@pytest.mark.parametrize(
    ("arguments", "redirections", "code", "message"),
    [
        (("list", "games"), ">&-", 0, "--games also accepts"),
        (("list", "agents"), ">&- 2>&- <&-", 0, ""),
        (("--help",), ">&-", 0, ""),
        (("--help",), "2>&-", 0, ""),
        (("list", "agents"), f">{FULL}", 1, "No space left"),
        (("--help",), f">{FULL}", 1, "No space left"),
        (("train", "--help"), f">{FULL} 2>{FULL}", 1, ""),
        (("list", "agents"), f"2>{FULL}", 0, ""),
        (("list", "gmaes"), f"2>{FULL}", 2, ""),
        (("list", "gmaes"), "2>&-", 2, ""),
        (("report", "nowhere"), f"2>{FULL}", 2, ""),
    ],
)
def test_the_exit_code_is_right(arguments, redirections, code, message, tmp_path):
    found, _, errors = shell(blip_rl(*arguments), redirections, tmp_path)
    assert found == code, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert message in errors


def test_a_training_without_streams_writes_none_of_its_files_wrongly(tmp_path):
    """The next opened file gets the descriptor of a closed stream, and libraries would print into it."""
    arguments = command("finetune", "run", CARTPOLES, games="cartpole-a", steps="128")
    assert shell(arguments, ">&- 2>&- <&-", tmp_path) == (0, "", "")
    run = tmp_path / "run"
    assert (run / "scores.csv").read_text().startswith("env_steps,")
    assert (run / "checkpoints" / "stage-01").is_dir()


def test_training_continues_without_standard_output_and_exits_with_1(tmp_path):
    arguments = command("finetune", "run", CARTPOLES, games="cartpole-a", steps="128")
    code, _, errors = shell(arguments, f">{FULL}", tmp_path)
    assert (code, errors) == (1, "Error: [Errno 28] No space left on device\n")
    assert (tmp_path / "run" / "checkpoints" / "stage-01").is_dir()


def test_progress_is_dropped_and_results_are_not(monkeypatch):
    with open(FULL, "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        console = Console(quiet=False)
        console.say("on the way")
        with pytest.raises(OSError, match="No space left"):
            console.show_result("done")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # its last flush
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = Console(quiet=False)
    console.say("to nobody")
    assert not console.bars
