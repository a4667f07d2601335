"""Estimated memory and disk of a run, compared with the measured ones."""

import re
import subprocess
import sys

import pytest

from blip_rl.run.resources import estimate_resources
from blip_rl.run.train import train
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage import atomic
from tests.small_runs import small_config


def folder_bytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


STATES = ["distil.start=previous", "distil.rollout_states=4096", "trunk.vector.hidden=[70, 70]"]


@pytest.mark.parametrize(
    ("agent", "steps", "settings"),
    [
        ("blip", 512, []),
        ("blip-distil", 512, []),
        ("blip-distil", 4096, STATES),  # 66 kB of states in each snapshot, beside 21 kB of weights
        ("clear", 512, []),
        ("single", 512, []),
    ],
)
def test_estimated_disk_use_is_close_to_the_measured_one(agent, steps, settings, tmp_path, monkeypatch):
    """Large weights dominate the folder, which is largest before the oldest snapshot is removed."""
    told, sizes, remove, log_update = [], [], atomic.remove, TrainingCallback._log_update

    def measure(callback):
        log_update(callback)
        if not told:
            told.append(estimate_resources(callback._config, callback._agent.policy, callback._run.method, 0))

    def before_removing(path, check=atomic.unlocked):
        sizes.append(folder_bytes(tmp_path / "run"))
        remove(path, check)

    monkeypatch.setattr(TrainingCallback, "_log_update", measure)
    monkeypatch.setattr(atomic, "remove", before_removing)
    overrides = [
        "trunk.vector.hidden=[300, 300]",
        f"checkpoint.every_steps={steps // 2}",
        "evaluation.every_steps=100k",
    ]
    overrides += ["distil.teacher_states=32", "distil.student_states=32", "distil.updates=4", *settings]
    config = small_config(agent, steps=str(steps), overrides=overrides)
    path = train(config, out=tmp_path / "run", threads=1, quiet=True)
    assert 0.95 < told[0].disk / max(sizes) < 1.4
    # What CLEAR keeps with a CartPole's 16 bytes counts, and with smaller weights, TensorBoard's files.
    least = 0.75 if agent == "clear" else 0.5 if settings else 0.85
    assert least < told[0].final_disk / folder_bytes(path) < 1.1


PLAY = """
import re, sys
from pathlib import Path
from blip_rl.run import resources
resources._LONG_RUN_SECONDS = 0
from blip_rl.cli import cli
cli.main(["train", *sys.argv[1:]], standalone_mode=False)
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["blip", "clear"])
def test_estimates_of_the_papers_network_are_close_to_the_measured_ones(agent, tmp_path):
    settings = ["ppo.epochs=1", "evaluation.episodes=4", "evaluation.max_episode_steps=60"]
    options = [part for setting in settings for part in ("--set", setting)]
    command = ["--games", "boxing,pong", "--agent", agent, "--steps", "8k", "--threads", "1", "--out", "run", *options]
    done = subprocess.run(
        [sys.executable, "-c", PLAY, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    memory, _, end = re.search(
        r"about ([\d.]+ [MG]B) of memory, up to ([\d.]+ [MG]B) of disk \(([\d.]+ [MG]B)", done.stdout
    ).groups()
    peak = int(done.stdout.split("PEAK")[1])
    assert 0.75 < as_bytes(memory) / peak < 1.35, (memory, peak)
    assert 0.9 < as_bytes(end) / folder_bytes(tmp_path / "run") < 1.2


def as_bytes(text):
    number, unit = text.split()
    return float(number) * {"MB": 1e6, "GB": 1e9}[unit]
