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
from tests.run.kill_points import KillPoints

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
KINDS = {"open", "write", "tensors", "fsync", "rename", "remove", "mkdir", "rmdir"}
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


class Verdicts:
    """Resumes a run from every kill point and collects failures.

    Attributes:
        failures: A line for each point that a run does not survive as it should.
    """

    def __init__(self, whole, overrides, folder):
        self._expected = run_files(whole), curves(whole)
        self._overrides, self._folder, self._known, self._points = overrides, folder, {}, 0
        self.failures = []

    def judge(self, points, most_lost, newest=BEGINNING):
        """Resume from every point.

        Args:
            points: In the order of the run.
            most_lost: Training steps that may be done again.
            newest: Position of the newest complete snapshot before the first point.
        """
        for point in points:
            newest = max(newest, newest_complete(point.state))
            problem, resumed_from = self._outcome(point.state)
            if not problem and (resumed_from < newest or point.learned - resumed_from[1] > most_lost):
                problem = f"LOST_WORK: {newest} was complete, {point.learned} learned, resumed from {resumed_from}"
            self.failures += [f"{point}: {problem}"] if problem else []
            self._points += 1

    def __str__(self):
        kinds = Counter(line.partition(": ")[2].partition(":")[0] for line in self.failures)
        return f"{self._points} points, {len(self._known)} different folders, {dict(kinds) or 'no failure'}"

    def _outcome(self, state):
        """Return the problem, if any, and the position resumed from; equal folders are resumed once."""
        if state not in self._known:
            run = self._folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            if state is not None:
                shutil.copytree(state, run)
            self._known[state] = self._resumed(run)
        return self._known[state]

    def _resumed(self, run):
        try:
            resumed_from = resume(run, self._overrides)
        except Exception as error:
            return f"HARD_FAIL: {error!r}", BEGINNING
        return "" if (run_files(run), curves(run)) == self._expected else "SILENT_DIVERGENCE", resumed_from


def recorded(run, copies, work):
    """Run or resume; return the kill points."""
    copies.mkdir()
    with KillPoints(run, copies).recorded() as recorder, pytest.MonkeyPatch.context() as patch:
        update = ContinualPPO.train
        patch.setattr(
            ContinualPPO, "train", lambda agent: (update(agent), setattr(recorder, "learned", agent.num_timesteps))
        )
        work(run)
    return recorder.points


def of_the_quick_test(points):
    """Select the points before each rename and removal of a snapshot or checkpoint, where both copies could be lost."""
    for before, point in pairwise(points):
        if "checkpoints" in point.name and "rename" in (point.kind, before.kind):
            yield point


def test_a_run_killed_while_snapshots_take_turns(tmp_path):
    """With tasks shorter than ``checkpoint.every_steps``, snapshots are only saved at the ends of tasks."""
    run = tmp_path / "run"
    points = recorded(run, tmp_path / "copies", lambda run: start(run, AT_BOUNDARIES))
    verdicts = Verdicts(run, AT_BOUNDARIES, tmp_path / "resumed")
    verdicts.judge(of_the_quick_test(points), TASK_STEPS)
    print(verdicts)
    assert not verdicts.failures


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "most_lost"), [(EVERY_UPDATE, UPDATE_STEPS), (AT_BOUNDARIES, TASK_STEPS)])
def test_a_run_killed_at_every_point(overrides, most_lost, tmp_path):
    run = tmp_path / "run"
    points = recorded(run, tmp_path / "copies", lambda run: start(run, overrides))
    assert {point.kind for point in points} == {*KINDS, "half"}
    verdicts = Verdicts(run, overrides, tmp_path / "resumed")
    verdicts.judge(points, most_lost)
    print(verdicts)
    assert not verdicts.failures


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_resume_killed_at_every_point(damaged, tmp_path):
    """Also from the snapshot before a damaged one, where later files are removed first."""
    whole, run = start(tmp_path / "whole", EVERY_UPDATE), tmp_path / "run"
    with killed_at(snapshots, "save", 5):
        start(run, EVERY_UPDATE)
    if damaged:
        (RunFolder(run).snapshots()[-1] / "agent.safetensors").write_bytes(b"")
    points = recorded(run, tmp_path / "copies", lambda run: resume(run, EVERY_UPDATE))
    assert {point.kind for point in points} >= {*KINDS, "truncate"}
    verdicts = Verdicts(whole, EVERY_UPDATE, tmp_path / "resumed")
    verdicts.judge(points, UPDATE_STEPS)
    print(verdicts)
    assert not verdicts.failures
