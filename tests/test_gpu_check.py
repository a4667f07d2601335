"""The GPU check, rehearsed on the CPU, and the page that it writes."""

import importlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY = [
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "ppo.minibatches=2",
    "trunk.image.conv=[[4,8,8]]",
    "trunk.image.hidden=[16]",
    "evaluation.max_episode_steps=100",
]
MACHINE = {"cpu": "a processor", "cores": 2}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from _gpu.page import page

    return page


def measured(**steps):
    return {"machine": MACHINE, "versions": {"torch": "2"}, "command": "python x", "commit": "c", "device": "d"} | steps


def test_the_page_shows_failures_and_differences_and_what_was_not_run(page):
    comparison = {"weights_relative": 0.5, "first_loss_relative": 1e-3, "losses_relative": 0.1, "equal": False}
    speed = {"steps_per_second": 1234.5, "update_share": 0.25, "gpu_peak_mb": None}
    text = page(
        measured(
            tests={"outcomes": {"a": "passed", "b": "failure: broken"}},
            fidelity={"blip": {"comparisons": {"eager – captured": comparison}}},
            resume={
                "blip": {
                    "repeated": {"different_files": []},
                    "resumed": {
                        "runs": 1,
                        "different_runs": 1,
                        "different_files": ["scores.csv"],
                        "largest_weight_difference": 0.25,
                    },
                }
            },
            throughput={"speeds": {"x": speed}},
            games={"games": ["a"], "steps_per_game": 10, "seconds": 2.0, "scores": {"blip": {"1": {"a": 0.125}}}},
        )
    )
    assert page(measured()).count("Not measured.") == 2
    assert "1 passed, 1 failure" in text
    assert "`b`: failure: broken" in text
    assert "| blip | eager – captured | 5.0e-01 | 1.0e-03 | no |" in text
    assert "repeated: all tables and checkpoints are byte-identical" in text
    assert "resumed: 1 of 1 runs differ, in 1 files, weights by up to 2.5e-01" in text
    assert "| x | 1,234 | 25 % |  |" in text
    assert "| blip | 1 | 0.125 |" in text


@pytest.mark.parametrize("step", sorted(path.stem for path in (SCRIPTS / "_gpu").glob("[a-z]*.py")))
def test_each_step_can_be_imported(step, monkeypatch):
    """The rehearsal is slow and not part of every test run: a name that has changed is to be found here."""
    monkeypatch.syspath_prepend(SCRIPTS)
    importlib.import_module(f"_gpu.{step}")


def test_results_do_not_name_folders_of_the_machine(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from _measure import provenance

    monkeypatch.setattr(
        sys, "argv", ["/home/me/gpu_check.py", "--out", "/home/me/out", "--steps", "5", "--archive=/a/b"]
    )
    assert provenance()["command"] == "python scripts/gpu_check.py --steps 5"


def test_an_unavailable_device_is_refused(tmp_path):
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--device", "cuda:99", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cuda:99" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_check_can_be_rehearsed_on_a_cpu(tmp_path):
    changes = [part for change in TINY for part in ("--set", change)]
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--device", "cpu", "--minutes", "9", *changes]
    command += ["--out", str(tmp_path), "--environments", "2", "--updates", "2", "--steps", "300"]
    subprocess.run(command, check=True, timeout=600)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert "skipped" in found["tests"]
    for agent in ("finetune", "blip", "ewc-kronecker"):
        comparisons = found["fidelity"][agent]["comparisons"]
        assert len(comparisons) == 3
        assert all(one["equal"] for one in comparisons.values())
    for agent in ("blip", "ewc-kronecker-distil", "ewc-kronecker-distil, eager"):
        assert found["resume"][agent]["repeated"]["different_files"] == []
        assert found["resume"][agent]["resumed"]["different_files"] == []
    assert min(one["steps_per_second"] for one in found["throughput"]["speeds"].values()) > 0
    assert set(found["games"]["scores"]["blip"]["3"]) == {"kungfu", "boxing", "spaceinvaders"}
    with tarfile.open(tmp_path / "runs.tar.gz") as tar:
        assert {"blip/scores.csv", "finetune/config.toml", "report.html", "versus.gif"} <= set(tar.getnames())
