"""The start-up benchmark runs as a user would run it, on a training that starts at once."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark_startup.py"


def test_every_command_is_measured(tmp_path):
    options = ["--repeats", "1", "--threads", "1", "--games", "CartPole-v1", "--agent", "finetune", "--out", "x.json"]
    done = subprocess.run([sys.executable, SCRIPT, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["commands"]
    (first_step,) = [title for title in commands if title.endswith("to its first step")]
    assert len(commands) == 8
    for title, found in commands.items():
        assert title in done.stdout
        assert found["seconds_all"] == [found["seconds"]]
        assert 0.01 < found["processor_seconds"] < 60
    assert commands["blip-rl --help"]["processor_seconds"] < commands[first_step]["processor_seconds"] / 3
    assert not (tmp_path / "runs").exists()


def test_verbs_are_measured_on_a_copy_of_a_run(tmp_path):
    learned = ["--games", "CartPole-v1", "--agent", "finetune", "--steps", "64", "--out", "run", "--quiet"]
    small = ["ppo.environments=2", "ppo.rollout_steps=16", "ppo.minibatches=2", "evaluation.episodes=1"]
    changes = [part for change in small for part in ("--set", change)]
    subprocess.run([sys.executable, "-m", "blip_rl", "train", *learned, *changes], cwd=tmp_path, check=True)
    before = {path.name for path in (tmp_path / "run").iterdir()}
    options = ["--run", "run", "--repeats", "1", "--threads", "1", "--out", "x.json"]
    subprocess.run([sys.executable, SCRIPT, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["commands"]
    assert list(commands) == [f"blip-rl {verb} RUN" for verb in ("inspect", "report", "render", "evaluate")]
    assert {path.name for path in (tmp_path / "run").iterdir()} == before
