"""A run killed before any of its file events is resumed from its newest snapshot and ends with the same bytes.

The method is that of crash-consistency checkers such as ckpt-chaos (PyPI): record every file event of an uninterrupted
run, then resume from what a kill before each event leaves. A resume fails hard if it raises, diverges if any byte
differs from the uninterrupted run's, and loses work if it starts before the newest snapshot that was complete.
"""

import shutil
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run import train as train_module
from blip_rl.run.train import train
from blip_rl.storage import atomic
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.run_folder import RunFolder
from blip_rl.untrusted.files import read_json
from tests.run.broken_off import curves, killed_at, resume_run, run_files, settings, small_run
from tests.run.file_events import KillPoints

pytestmark = [
    pytest.mark.usefixtures("_blank_heatmaps"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc for the file of a descriptor"),
]
TASK_STEPS, UPDATE_STEPS = 256, 4 * 32
TINY = (
    *settings("blip"),
    "evaluation.every_steps=192",
    "evaluation.episodes=1",
    "evaluation.max_episode_steps=30",
    "ppo.epochs=1",
)
EVERY_UPDATE = (*TINY, f"checkpoint.every_steps={UPDATE_STEPS}")
KINDS = {"open", "write", "tensors", "fsync", "rename", "remove", "mkdir", "rmdir", "truncate"}
AT_BOUNDARIES = (*TINY, "checkpoint.every_steps=1M")
BEGINNING, END = (0, 0, False), (1_000, 10**9, False)


def start(out, overrides):
    return train(small_run(steps=str(TASK_STEPS), overrides=overrides), out=out, threads=1, quiet=True)


def position(stage, steps, phase):
    """Return a snapshot's position in the order of writing."""
    return stage, steps, phase == "learned"


def newest_complete(state):
    """Return the position of the newest complete snapshot in a folder."""
    found = [BEGINNING]
    for path in state.glob("checkpoints/**/step-*") if state else ():
        try:
            atomic.check_folder(path)
        except atomic.DamagedError:
            continue
        facts = read_json(path / "snapshot.json")
        found.append(position(facts["stage"], facts["agent"]["steps"], facts["phase"]))
    return max(found)


def resume(run, overrides):
    """Resume as a user would; return the position of the snapshot that was used."""
    if not (run / "config.toml").exists():
        start(run, overrides)
        return BEGINNING
    if RunFolder(run).finished(2):
        with pytest.raises(UserError, match="finished"):
            resume_run(run)
        return END
    found = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged snapshot that gives way to the one before it
        newest = train_module.newest_snapshot
        patch.setattr(train_module, "newest_snapshot", lambda *a: found.append(newest(*a)) or found[0])
        resume_run(run)
    return position(found[0].stage, found[0].steps, found[0].phase) if found[0] else BEGINNING


class Outcomes:
    """Resumes a run from every kill point and collects failures.

    Attributes:
        failures: A line for each point from which the run does not end as it should.
    """

    def __init__(self, whole, overrides, folder):
        self._expected = run_files(whole), curves(whole)
        self._overrides, self._folder, self._known = overrides, folder, {}
        self.failures = []

    def check(self, points, most_lost):
        """Resume from every point, in the order of the run; at most ``most_lost`` training steps may be repeated."""
        newest = BEGINNING
        for point in points:
            newest = max(newest, newest_complete(point.state))
            if point.state not in self._known:  # equal folders are resumed once
                self._known[point.state] = self._outcome(point.state)
            problem, resumed_from = self._known[point.state]
            if not problem and (resumed_from < newest or point.learned - resumed_from[1] > most_lost):
                problem = f"LOST_WORK: {newest} was complete, {point.learned} learned, resumed from {resumed_from}"
            self.failures += [f"{point.event}: {problem}"] if problem else []
        kinds = Counter(line.partition(": ")[2].partition(":")[0] for line in self.failures)
        print(f"{len(points)} points, {len(self._known)} different folders, {dict(kinds) or 'no failure'}")
        assert not self.failures

    def _outcome(self, state):
        """Return the problem, if any, and the position resumed from."""
        run = self._folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        if state is not None:
            shutil.copytree(state, run)
        try:
            resumed_from = resume(run, self._overrides)
        except Exception as error:
            return f"HARD_FAIL: {error!r}", BEGINNING
        return "" if (run_files(run), curves(run)) == self._expected else "SILENT_DIVERGENCE", resumed_from


def recorded(run, copies, work):
    """Run or resume; return the kill points."""
    copies.mkdir()
    recorder, update = KillPoints(run, copies), ContinualPPO.train

    def counted(agent):
        update(agent)
        recorder.learned = agent.num_timesteps

    with recorder.observed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContinualPPO, "train", counted)
        work(run)
    return recorder.points


def around_renames(points):
    """Select the points around each rename of a snapshot or checkpoint, where both copies could be lost."""
    return [
        point
        for before, point in pairwise(points)
        if "checkpoints" in point.event and any(each.event.startswith("rename") for each in (before, point))
    ]


@pytest.mark.parametrize(
    ("overrides", "most_lost", "chosen"),
    [
        (AT_BOUNDARIES, TASK_STEPS, around_renames),
        pytest.param(AT_BOUNDARIES, TASK_STEPS, list, marks=pytest.mark.slow),
        pytest.param(EVERY_UPDATE, UPDATE_STEPS, list, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_before_any_file_event_resumes(overrides, most_lost, chosen, tmp_path):
    """With tasks shorter than ``checkpoint.every_steps``, snapshots are only saved at the ends of tasks."""
    run = tmp_path / "run"
    points = recorded(run, tmp_path / "copies", lambda run: start(run, overrides))
    assert {point.event.split()[0] for point in points} == {*KINDS, "half"}
    Outcomes(run, overrides, tmp_path / "resumed").check(chosen(points), most_lost)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_resume_killed_before_any_file_event_resumes(damaged, tmp_path):
    """Also from the snapshot before a damaged one, where later files are removed first."""
    whole, run = start(tmp_path / "whole", EVERY_UPDATE), tmp_path / "run"
    with killed_at(snapshots, "save", 5):
        start(run, EVERY_UPDATE)
    if damaged:
        (RunFolder(run).snapshots()[-1] / "agent.safetensors").write_bytes(b"")
    points = recorded(run, tmp_path / "copies", lambda run: resume(run, EVERY_UPDATE))
    assert {point.event.split()[0] for point in points} >= KINDS
    Outcomes(whole, EVERY_UPDATE, tmp_path / "resumed").check(points, UPDATE_STEPS)
