"""Invalid input of ``blip-rl train``: one message with value, rule and fix, exit code 2, nothing written."""

import subprocess

import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from tests.run.broken_off import command

CASES = {
    "unknown game": (["--games", "kungfoo"], ["kungfoo", "did you mean kungfu", "blip-rl list games"]),
    "unknown key": (["--set", "ppo.learning_rat=1"], ["learning_rat", "learning_rate"]),
    "game twice": (["--games", "boxing,boxing", "--agent", "single"], ["2 visits", "single", "each task once"]),
    "no game": (["--games", ""], ["--games", "kungfu,boxing"]),
    "no steps": (["--steps", "0"], ["'0'", "at least 1", "10M"]),
    "both priors": (["--set", "method.fisher_prior=1e-9"], ["both are given", "exactly one", "none removes"]),
    "no prior": (["--set", "method.first_task_drift=none"], ["none is given", "exactly one"]),
    "no such device": (["--device", "cuda:63"], ["cuda:63", "cpu", "auto"]),
    "unfit task": (["--games", "boxing,CartPole-v1"], ["CartPole-v1", "(4,)", "(4, 84, 84)", "separate runs"]),
    "huge skip": (["--games", "pong", "--set", "atari.frame_skip=99999999999"], ["frame_skip", "99999999999", "100"]),
    "huge layer": (["--set", "trunk.vector.hidden=[1000000000000]"], ["trunk.vector.hidden", "65536"]),
    "evaluation seed": (["--set", "evaluation.seed=1073741823"], ["evaluation.seed", "1073741823"]),
    "threads": (["--threads", "100000"], ["--threads 100000: expected a whole number from 0 to 1,024"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, wanted = CASES[case]
    games = [] if "--games" in arguments else ["--games", "CartPole-v1"]
    result = CliRunner().invoke(cli, ["train", *games, *arguments, "--out", "run"])
    assert result.exit_code == 2, result.output
    assert all(text in result.stderr for text in wanted), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_exists_is_not_written_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    result = CliRunner().invoke(cli, ["train", "--games", "CartPole-v1", "--out", "run"])
    assert result.exit_code == 2
    assert "'run' exists" in result.stderr
    assert "--out" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_training_that_diverges_is_one_message_with_its_cause(tmp_path):
    """In a separate process, for the exit code and the absence of a traceback."""
    overrides = ("ppo.learning_rate=1e30", "evaluation.episodes=1")
    done = subprocess.run(
        command("finetune", tmp_path / "run", overrides, games="CartPole-v1", steps="8k"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "diverged" in done.stderr
    assert "learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
