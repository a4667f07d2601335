"""Helpers that interrupt runs at chosen points and compare resumed runs with uninterrupted ones."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from blip_rl.recipes import resolve
from blip_rl.run.train import resume, train

CARTPOLES = (
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "ppo.minibatches=4",
    "ppo.epochs=2",
    "trunk.vector.hidden=[16, 16]",
    "evaluation.episodes=2",
    "evaluation.every_steps=384",
    "checkpoint.every_steps=256",
)
ATARI = (
    "ppo.environments=2",
    "ppo.rollout_steps=16",
    "ppo.minibatches=2",
    "trunk.image.conv=[[4, 8, 8], [4, 3, 2]]",
    "trunk.image.hidden=[8]",
    "evaluation.episodes=1",
    "evaluation.every_steps=96",
    "evaluation.max_episode_steps=20",
    "checkpoint.every_steps=64",
)
METHOD = {
    "blip": ("method.fisher_samples=32",),
    "clear": ("method.capacity_frames=64", "method.batch=8"),
    "blip-distil": (
        "method.fisher_samples=32",
        "distil.teacher_states=32",
        "distil.student_states=32",
        "distil.updates=10",
        "distil.minibatch=16",
    ),
}
TABLES = ("scores.csv", "returns.csv", "bits.csv", "plasticity.csv")


def settings(agent, games=CARTPOLES):
    return (*games, *METHOD.get(agent, ()))


def small_run(agent="blip", games="cartpole-a,cartpole-b", steps="512", overrides=None):
    return resolve(games, agent, steps=steps, overrides=overrides or settings(agent))


class KilledError(BaseException):
    """Simulates the end of the process."""


@contextlib.contextmanager
def killed_at(owner, name, call=1, after=False):
    """Simulate a kill at the ``call``-th call of a function, before or after its work."""
    function, calls = getattr(owner, name), []

    def deadly(*args, **options):
        calls.append(None)
        if len(calls) == call and not after:
            raise KilledError
        result = function(*args, **options)
        if len(calls) == call:
            raise KilledError
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, deadly)
        with pytest.raises(KilledError):
            yield


def broken_off(out, owner, name, call=1, after=False, agent="blip", **options):
    """Start a run that is killed as in :func:`killed_at`; return its folder."""
    with killed_at(owner, name, call, after):
        train(small_run(agent, **options), out=out, threads=1, quiet=True)
    return out


def killed_and_resumed(out, points, agent="blip", **options):
    """Start a run that is killed at the first point, kill each resumed process at the next one, and finish the run.

    Points are the arguments of :func:`killed_at`; calls are counted from the start of each process.
    """
    broken_off(out, *points[0], agent=agent, **options)
    for point in points[1:]:
        with killed_at(*point):
            resume_run(out)
    return resume_run(out)


def resume_run(run, **options):
    return resume(run, threads=1, quiet=True, **options)


def assert_equal(run, other):
    assert run_files(run) == run_files(other)
    assert curves(run) == curves(other)


def run_files(run):
    """Return the digests of all tables and of all checkpoint files."""
    files = [*(run / name for name in TABLES), *sorted(run.glob("checkpoints/**/*"))]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else "" for f in files}


def _opened_at(path):
    """Return when an event file was opened: its name has whole seconds, and two processes may share one."""
    return next(iter(EventFileLoader(str(path)).Load())).wall_time


def curves(run):
    """Return tag → [(step, value), …] of every TensorBoard scalar except speeds, in the order of writing.

    The event files are read one after another, because TensorBoard's own accumulator hides steps that are there twice.
    """
    found = {}
    for path in sorted(run.glob("events*"), key=_opened_at):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    for tag, points in found.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), f"{tag}: a step is missing its place, or is there twice"
    return {tag: points for tag, points in found.items() if not tag.startswith("time/")}


def command(agent, out, overrides, *more, games="cartpole-a,cartpole-b", steps="512"):
    """Return the command line that trains the recipe of :func:`small_run`."""
    changes = [part for setting in overrides for part in ("--set", setting)]
    asked = ["train", "--games", games, "--agent", agent, "--steps", steps, "--threads", "1", "--out", str(out)]
    return [sys.executable, "-m", "blip_rl", *asked, *changes, *more]


@contextlib.contextmanager
def process(arguments):
    """Start a process and kill it at the end of the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate()


def wait_for(child, condition, seconds=120):
    """Wait until a condition holds; fail if the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.002)
