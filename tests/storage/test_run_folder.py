"""The tables of a run folder, written by several processes and under several names."""

import csv
import subprocess
import sys

import pytest

from blip_rl.records import ScoreRow, SpeedRow, columns
from blip_rl.storage.run_folder import RunFolder

MERGING = """
import os, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from blip_rl.storage.run_folder import RunFolder
from tests.storage.test_run_folder import score
children = []
for process in range(4):
    child = os.fork()
    if not child:
        for number in range(12):
            RunFolder(Path(sys.argv[1])).replace_scores([score(1000 * process + number)])
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def score(seed):
    return ScoreRow(100, 1, "after", "cartpole-a", seed, 1.5, 10, False, None, "greedy")


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.path.mkdir()
    found.scores.write_text(",".join(columns(ScoreRow)) + "\n")
    found.add_scores([score(10_000 + number) for number in range(2_000)])
    return found


def test_concurrent_processes_lose_no_scores(folder):
    done = subprocess.run([sys.executable, "-c", MERGING, str(folder.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with folder.scores.open(newline="") as file:
        seeds = [int(row["seed"]) for row in csv.DictReader(file)]
    wanted = [1000 * process + number for process in range(4) for number in range(12)]
    assert sorted(seeds) == sorted([*wanted, *range(10_000, 12_000)])
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "scores.csv"]


def test_appending_leaves_hard_linked_copies_unchanged(folder, tmp_path):
    (tmp_path / "copy.csv").hardlink_to(folder.scores)
    before = folder.scores.read_bytes()
    folder.add_scores([score(1)])
    folder.add_speed(SpeedRow(1, 1, 2.0, 3.0))
    assert (tmp_path / "copy.csv").read_bytes() == before
    assert folder.scores.read_bytes().startswith(before)
    assert len(folder.read_scores()) == 2_001


def test_the_step_counter_is_stored_until_the_run_is_finished(folder, tmp_path):
    assert folder.noted_steps() == 0
    (tmp_path / "other").write_text("other")
    (folder.path / ".steps").symlink_to(tmp_path / "other")
    for steps in (12, 345):
        folder.note_steps(steps)
        assert folder.noted_steps() == steps
    assert (tmp_path / "other").read_text() == "other"
    folder.finish()
    assert not (folder.path / ".steps").exists()


@pytest.mark.parametrize("text", [b"", b"x", b"-5", b"9" * 19, "٣".encode(), b"\xff"])
def test_an_unreadable_step_counter_is_zero(text, folder):
    (folder.path / ".steps").write_bytes(text)
    assert folder.noted_steps() == 0


def test_a_command_with_a_path_that_is_not_utf8_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["blip-rl", "train", "--agent", "/tmp/\udcff/mine.toml"])
    created = RunFolder(tmp_path / "run").create("", "cpu", {})
    assert created.command() == "blip-rl train --agent '/tmp/\\udcff/mine.toml'\n"


def test_stages_are_counted_from_1(folder):
    for name in ("stage-00", "stage-01", "stage-10", "stage-x", "stage-²"):
        (folder.path / "checkpoints" / name).mkdir(parents=True)
    assert folder.stages() == [1, 10]
