"""The soak for memory: what it counts as a leak, and one small soak as a user would run it."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "soak.py"


@pytest.fixture
def soak(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "soak", module)
    spec.loader.exec_module(module)
    return module


def moments(soak, memory, agent=(), files=(), threads=()):
    """One moment for each memory; the others' last value stays."""
    columns = [list(values) or [0] for values in (agent, files, threads)]
    rows = [[values[min(n, len(values) - 1)] for values in columns] for n in range(len(memory))]
    return [soak.Moment("t", 0.0, mb, 0.0, *row, checkpoint_mb=1.0) for mb, row in zip(memory, rows, strict=True)]


def test_growth_is_measured_from_the_third_switch_on(soak):
    verdict = soak.judge(moments(soak, [100, 150, 200, 201, 201]), soak.Parts())
    assert verdict["growth_percent"] == pytest.approx(0.5)
    assert verdict["faults"] == []
    assert soak.judge(moments(soak, [100, 150, 200, 201, 203]), soak.Parts())["faults"] == ["memory grew by 1.50 %"]


def test_growth_that_is_expected_is_subtracted(soak):
    """Weights of heads, objects around them, and what ale-py leaves of each game."""
    grown = moments(soak, [200, 200, 200, 210, 230], agent=[5, 5, 5, 14])
    grown = [dataclasses.replace(moment, games_opened=1000 * n) for n, moment in enumerate(grown)]
    verdict = soak.judge(grown, soak.Parts(head_objects_kb=1500, game_kb=2.5))
    assert verdict["growth_mb"] == 30
    assert verdict["growth_by_design_mb"] == pytest.approx(9 + 2 * 1.5)
    assert verdict["left_by_games_mb"] == pytest.approx(2000 * 2.5 / 1000)
    assert verdict["growth_percent"] == pytest.approx(100 * (30 - 12 - 5) / 200)


def test_files_and_threads_left_behind_are_faults(soak):
    verdict = soak.judge(moments(soak, [1, 1, 1, 1], files=[9, 9, 9, 11], threads=[3, 3, 3, 4]), soak.Parts())
    assert verdict["faults"] == ["2 more files", "1 more threads"]
    assert soak.judge(moments(soak, [1, 1, 1, 1], files=[9, 9, 11, 9]), soak.Parts())["faults"] == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_soak_measures_memory_files_and_threads_after_each_task(tmp_path):
    options = ["--games", "CartPole-v1", "--switches", "4", "--steps", "128", "--agent", "finetune"]
    options += [
        "--parts",
        "40",
        "--set",
        "ppo.rollout_steps=16",
        "--set",
        "ppo.epochs=1",
        "--set",
        "trunk.vector.hidden=[16]",
        "--out",
        "soak.json",
    ]
    done = subprocess.run([sys.executable, SCRIPT, *options], cwd=tmp_path, capture_output=True, text=True)
    results = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    assert done.returncode == bool(results["faults"]), done.stderr
    assert [moment["task"] for moment in results["moments"]] == [f"task-{n}" for n in range(1, 5)]
    for moment in results["moments"]:
        assert moment["memory_mb"] > 50
        assert moment["files"] > 3
        assert 0 < moment["agent_mb"] < moment["memory_mb"]
    heads = results["moments"][3]["agent_mb"] - results["moments"][2]["agent_mb"]
    assert heads * 1e6 == pytest.approx(4 * (2 * 16 + 2 + 16 + 1 + 2 * 16))  # actor, critic, a scale and shift per unit
    assert 2 < results["parts"]["head_objects_kb"] < 100
    assert results["parts"]["game_kb"] == 0
    assert "| switch |" in done.stdout
    assert "Growth after switch 3" in done.stdout
