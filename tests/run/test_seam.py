"""TensorBoard events of a run resumed five times: no step is missing or repeated."""

import re

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run import train as train_module
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import train
from blip_rl.storage import snapshot
from tests.run.broken_off import broken_off, killed_at, resume_run, small_run

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")
RESUMED_FROM = [
    (ContinualPPO, "_update", 5, True),
    (ScoreBook, "_play", 2, True),
    (snapshot, "save", 2, False),
    (train_module, "save_stage", 1, True),
]


def written(run):
    """Return tag → (step, value) of every scalar, in the order of the event files."""
    found = {}
    for path in sorted(run.glob("events*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def test_a_run_resumed_five_times_is_one_curve(tmp_path):
    never_left = written(train(small_run(), out=tmp_path / "whole", threads=1, quiet=True))
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 3)
    for point in RESUMED_FROM:
        with killed_at(*point):
            resume_run(run)
    resume_run(run)
    assert len(list(run.glob("events*"))) >= 5
    curves = written(run)
    assert set(curves) == set(never_left)
    assert len(curves) > 30
    for tag, points in curves.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
        if tag.startswith("time/"):
            assert set(steps) <= {step for step, _ in never_left[tag]}, tag
        else:
            assert points == never_left[tag], tag
