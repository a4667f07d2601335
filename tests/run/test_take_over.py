"""A process that is suspended, loses its run to another one and continues: it stops and leaves no byte behind."""

import hashlib
import json
import os
import subprocess
import sys
import warnings

import pytest

from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import CARTPOLES, assert_equal, killed_at, resume_run, small_run

SUSPENDED = """
import csv, json, os, signal, sys
from pathlib import Path
import numpy
from blip_rl.errors import TakenOverError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.train import train
from tests.run.broken_off import resume_run
from tests.run.test_take_over import tiny_run

def suspended_at(owner, name, call, kind):
    function, calls = getattr(owner, name), []
    def suspending(*args, **options):
        if kind in str(args[0]):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGSTOP)
        return function(*args, **options)
    setattr(owner, name, suspending)

def work(run, new, owner, name, call, kind):
    suspended_at({"ppo": ContinualPPO, "csv": csv, "path": Path}[owner], name, call, kind)
    try:
        train(tiny_run(), out=Path(run), threads=1, quiet=True) if new else resume_run(Path(run))
        os._exit(0)
    except TakenOverError as error:
        print(error, flush=True)
        os._exit(3)

pids = []
for case in json.loads(sys.argv[1]):
    pids.append(os.fork())
    if not pids[-1]:
        work(*case)
    if not os.WIFSTOPPED(os.waitpid(pids[-1], os.WUNTRACED)[1]):
        for pid in pids[:-1]:
            os.kill(pid, signal.SIGKILL)
        sys.exit(f"ended before {case}")
print("suspended", flush=True)
sys.stdin.readline()
for pid in pids:
    os.kill(pid, signal.SIGCONT)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
TINY = ("evaluation.episodes=1", "evaluation.max_episode_steps=30", "checkpoint.every_steps=128", "ppo.epochs=1")
POINTS = {
    # A new process of the run, whether it begins the run, and the call before which it is suspended.
    "an update": (True, "ppo", "train", 3, ""),
    "appending rows to an open table": (True, "csv", "writer", 9, ""),
    "giving a snapshot its name": (True, "path", "rename", 1, ".new/step-"),
    "removing an old snapshot": (True, "path", "rename", 1, "checkpoints/step-"),
    "giving a stage's checkpoint its name": (True, "path", "rename", 1, ".new/stage-"),
    "cutting a table back": (False, "path", "replace", 1, ".tmp"),
    "removing a snapshot that cannot be read": (False, "path", "rename", 1, "checkpoints/step-"),
}


def tiny_run():
    return small_run("finetune", steps="384", overrides=(*CARTPOLES, *TINY))


def content(run):
    """Return the digest of every file below a folder, and the names of all folders."""
    files = sorted(run.rglob("*"))
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else "" for f in files}


def interrupted_with_a_damaged_snapshot(run):
    """Create a run that stopped in its second task and whose newest snapshot cannot be read."""
    with killed_at(ContinualPPO, "train", 6):
        train(tiny_run(), out=run, threads=1, quiet=True)
    (RunFolder(run).snapshots()[-1] / "agent.safetensors").write_bytes(b"damaged")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tiny_run(), out=tmp_path_factory.mktemp("whole") / "run", threads=1, quiet=True)


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """Suspend a process at each point, finish its run in this process, and continue it.

    Returns:
        Point → the run, its content before and after the suspended process continued, and what that printed.
    """
    folder = tmp_path_factory.mktemp("suspended")
    runs = {point: folder / str(number) for number, point in enumerate(POINTS)}
    for point, (new, *_) in POINTS.items():
        if not new:
            interrupted_with_a_damaged_snapshot(runs[point])
    cases = [[str(runs[point]), *case] for point, case in POINTS.items()]
    command = [sys.executable, "-W", "ignore", "-c", SUSPENDED, json.dumps(cases)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdout.readline() == "suspended\n"
        for run in runs.values():
            with pytest.raises(UserError, match=r"another process is writing .* with --take-over"):
                resume_run(run)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the damaged snapshot
                resume_run(run, take_over=True)
        before = {point: content(run) for point, run in runs.items()}
        said = process.communicate("continue\n", timeout=120)[0].splitlines()
    after = {point: content(run) for point, run in runs.items()}
    return {
        point: (runs[point], before[point], after[point], said[2 * number : 2 * number + 2])
        for number, point in enumerate(POINTS)
    }


@pytest.mark.parametrize("point", POINTS)
def test_a_suspended_process_whose_run_was_taken_over_changes_no_byte(point, continued, whole):
    run, before, after, said = continued[point]
    assert after == before
    assert "was taken over" in said[0]
    assert said[1] == "exit 3"
    assert_equal(run, whole)
