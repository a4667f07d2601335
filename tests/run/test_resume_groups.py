"""Resuming runs with two environment groups: results are identical to those of uninterrupted runs."""

import numpy as np
import pytest

from blip_rl.learner.ppo import ContinualPPO
from blip_rl.report import heatmaps
from blip_rl.run.train import resume, train
from blip_rl.storage import snapshot
from blip_rl.tasks.groups import GroupedVecEnv
from tests.run.broken_off import ATARI, curves, killed_at, run_files, settings, small_run

GROUPS = ("compute.environment_groups=2",)
RUNS = {
    "cartpole": {"overrides": settings("blip") + GROUPS},
    "atari": {"overrides": settings("blip", ATARI) + GROUPS, "games": "pong,boxing", "steps": "128"},
}


@pytest.fixture(autouse=True)
def _blank_heatmaps(monkeypatch):
    """Drawing heatmaps would take most of the time, and the test does not compare them."""
    monkeypatch.setattr(heatmaps, "frozen_bits_image", lambda *_: np.zeros((1, 1, 3), np.uint8))


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_killed_twice_equals_an_uninterrupted_run(kind, tmp_path, monkeypatch):
    begun, begin = [], GroupedVecEnv.step_group_async
    monkeypatch.setattr(
        GroupedVecEnv,
        "step_group_async",
        lambda self, group, actions: begun.append(group) or begin(self, group, actions),
    )
    whole = train(small_run(**RUNS[kind]), out=tmp_path / "whole", threads=1, quiet=True)
    assert set(begun) == {0, 1}
    run = tmp_path / "run"
    with killed_at(ContinualPPO, "train", 4):
        train(small_run(**RUNS[kind]), out=run, threads=1, quiet=True)
    with killed_at(snapshot, "save", 2, True):
        resume(run, threads=1, quiet=True)
    assert run_files(run) != run_files(whole)
    resume(run, threads=1, quiet=True)
    assert run_files(run) == run_files(whole)
    assert curves(run) == curves(whole)
