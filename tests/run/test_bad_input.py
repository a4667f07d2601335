"""Invalid input of ``blip-rl train``: one message with value, rule and fix, exit code 2, nothing written."""

import subprocess
import sys

import pytest

CASES = {
    "unknown game": (["--games", "kungfoo"], ["kungfoo", "did you mean kungfu", "blip-rl list games"]),
    "unknown agent": (["--agent", "blop"], ["blop", "did you mean blip", "blip-rl list agents"]),
    "unknown key": (["--set", "ppo.learning_rat=1"], ["learning_rat", "learning_rate"]),
    "game twice": (["--games", "boxing,boxing"], ["boxing", "twice"]),
    "no game": (["--games", ""], ["--games", "kungfu,boxing"]),
    "no steps": (["--steps", "0"], ["'0'", "at least 1", "10M"]),
    "negative steps": (["--steps", "-5"], ["'-5'", "at least 1", "10M"]),
    "steps that are no number": (["--steps", "nan"], ["'nan'", "at least 1", "10M"]),
    "both priors": (["--set", "method.fisher_prior=1e-9"], ["both are given", "exactly one", "none removes"]),
    "no prior": (["--set", "method.first_task_drift=none"], ["none is given", "exactly one"]),
    "no such device": (["--device", "cuda:63"], ["cuda:63", "cpu", "auto"]),
    "unfit task": (["--games", "boxing,CartPole-v1"], ["CartPole-v1", "(4,)", "(4, 84, 84)", "separate runs"]),
    "huge skip": (["--games", "pong", "--set", "atari.frame_skip=99999999999"], ["frame_skip", "99999999999", "100"]),
    "huge layer": (["--set", "trunk.vector.hidden=[1000000000000]"], ["trunk.vector.hidden", "65536"]),
    "huge rollout": (["--set", "ppo.rollout_steps=1000000000000"], ["rollout_steps", "1000000"]),
    "evaluation seed": (["--set", "evaluation.seed=1073741823"], ["evaluation.seed", "1073741823"]),
    "threads": (["--threads", "100000"], ["100000", "1024"]),
}


def blip_rl(*arguments, cwd):
    command = [sys.executable, "-m", "blip_rl", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_leaves_nothing(case, tmp_path):
    arguments, wanted = CASES[case]
    games = [] if "--games" in arguments else ["--games", "CartPole-v1"]
    result = blip_rl("train", *games, *arguments, "--out", "run", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for text in wanted:
        assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_exists_is_left_as_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    result = blip_rl("train", "--games", "CartPole-v1", "--out", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert "'run' exists" in result.stderr
    assert "--out" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_training_that_diverges_stops_with_its_cause(tmp_path):
    settings = ["ppo.learning_rate=1e30", "evaluation.episodes=1"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    result = blip_rl(
        "train",
        "--games",
        "CartPole-v1",
        "--agent",
        "finetune",
        "--steps",
        "8k",
        *arguments,
        "--out",
        "run",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "diverged" in result.stderr
    assert "learning_rate" in result.stderr
    assert "Traceback" not in result.stderr
