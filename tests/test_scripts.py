"""Each benchmark script runs as a user would run it, on a problem that takes seconds."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MEMORY_IS_KNOWN = Path("/proc/self/status").exists()


def run(name, *options, cwd):
    """Run a script, which must not warn; return its results and what it printed."""
    command = [sys.executable, SCRIPTS / name, *options, "--out", "results.json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    results = json.loads((cwd / "results.json").read_text(encoding="utf-8"))
    assert results["command"].startswith(f"python scripts/{name} ")
    assert results["machine"]["torch_threads"] == 1
    assert results["machine"]["cpu"]
    return results, done.stdout


@pytest.fixture(scope="module")
def tiny():
    """Options that make a training benchmark small: a small network, and few steps."""
    changes = ["ppo.environments=2", "ppo.minibatches=2", "ppo.epochs=1", "trunk.image.hidden=[16]"]
    size = ["--rollout-steps", "4", "--updates", "1", "--repeats", "2", "--threads", "1"]
    return size + [part for change in changes for part in ("--set", change)]


def test_benchmark_training(tiny, tmp_path):
    results, printed = run("benchmark_training.py", "--profile", *tiny, cwd=tmp_path)
    contestants = results["contestants"]
    assert list(contestants) == ["stock", "finetune", "blip"]
    for contestant in contestants.values():
        assert f"| {contestant['title']} | {contestant['steps_per_second']:.0f} |" in printed
        assert len(contestant["steps_per_second_all"]) == 2
        assert min(contestant["steps_per_second_all"]) > 0
        assert contestant["steps_per_second"] == statistics.median(contestant["steps_per_second_all"])
        assert contestant["peak_rss_mb"] > 50 if MEMORY_IS_KNOWN else contestant["peak_rss_mb"] is None
    assert contestants["blip"]["consolidation"]["mean_frozen_bits"] == pytest.approx(4, abs=0.1)
    _check_comparisons(results)
    _check_profile(results["profile"])


def _check_comparisons(results):
    speeds = {name: contestant["steps_per_second_all"] for name, contestant in results["contestants"].items()}
    for name, contestant in results["contestants"].items():
        ratios = [a / b for a, b in zip(speeds[name], speeds["stock"], strict=True)]
        assert contestant["ratio_to_stock"] == pytest.approx(statistics.mean(ratios))  # of two, the median too
    longer = [a / b for a, b in zip(speeds["finetune"], speeds["blip"], strict=True)]
    assert results["blip_slowdown_percent"] == pytest.approx(100 * (statistics.mean(longer) - 1))


def _check_profile(profile):
    assert list(profile) == ["finetune", "blip"]
    for shares in profile.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) >= 0
    assert profile["blip"]["BLIP projection"] > 10 * profile["finetune"]["BLIP projection"]


def test_benchmark_training_alone_with_worker_processes(tiny, tmp_path):
    results, _ = run("benchmark_training.py", "--only", "stock-subproc", *tiny, cwd=tmp_path)
    (contestant,) = results["contestants"].values()
    assert contestant["ratio_to_stock"] is None
    assert results["blip_slowdown_percent"] is None
    if MEMORY_IS_KNOWN:  # three processes, each with torch in it
        assert contestant["peak_rss_mb"] > 300


def test_benchmark_fisher(tmp_path):
    options = ["--samples", "3", "--actions", "2", "--repeats", "2", "--threads", "1"]
    results, printed = run("benchmark_fisher.py", *options, cwd=tmp_path)
    assert list(results["fisher"]) == ["sampled", "exact"]
    for name, fisher in results["fisher"].items():
        assert f"| {name}, 3 samples | {fisher['seconds']:.2f} |" in printed
        assert len(fisher["seconds_all"]) == 2
        assert fisher["trunk_parameters"] == 6_538_464
        if MEMORY_IS_KNOWN:  # at least the result itself, 4 bytes for each parameter
            assert fisher["extra_peak_mb"] > 4 * 6.5
