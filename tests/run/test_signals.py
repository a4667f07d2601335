"""Signals that request a stop: the update is finished, the run saved, and the resume command printed."""

import contextlib
import functools
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from blip_rl.errors import InterruptedRunError
from blip_rl.learner.distil import Student
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.interruption import StopRequest, StopRequestError
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.snapshot_names import snapshot_steps
from tests.run.broken_off import (
    CARTPOLES,
    assert_equal,
    command,
    process,
    resume_run,
    run_files,
    settings,
    small_run,
    wait_for,
)

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
FINETUNE = (*settings("finetune"), "checkpoint.every_steps=128")  # early: from the first snapshot on they are stopped
SETTINGS = {"finetune": FINETUNE, "blip-distil": settings("blip-distil")}

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, trained on first use."""

    @functools.cache
    def run(agent):
        out = tmp_path_factory.mktemp("whole") / "run"
        return train(small_run(agent, overrides=SETTINGS[agent]), out=out, threads=1, quiet=True)

    return run


def resume_command(text, run):
    """Parse the resume command in a message as a shell would."""
    words = shlex.split(text[text.index("resume with: ") :].splitlines()[0])
    assert words[2:] == ["blip-rl", "train", "--resume", str(run)]
    return words[2:]


def test_every_signal_saves_and_prints_the_resume_command(whole, tmp_path):
    """Every signal, each sent to a separate process, with a space in the run's name."""
    runs = {name: tmp_path / f"run {name}" for name in SIGNALS}
    with contextlib.ExitStack() as opened:
        children = {n: opened.enter_context(process(command("finetune", runs[n], FINETUNE))) for n in SIGNALS}
        for name, child in children.items():
            wait_for(child, lambda name=name: any(runs[name].glob("checkpoints/step-*")))
            child.send_signal(getattr(signal, name))
        for name, child in children.items():
            out, err = child.communicate(timeout=60)
            assert child.returncode == SIGNALS[name], err
            assert f"{name}: stopping after this update" in out
            assert "Traceback" not in err
            resume_command(err, runs[name])
            saved = snapshot_steps(RunFolder(runs[name]).snapshots()[-1])
            assert f"saved at step {saved:,}" in err
    assert_equal(resume_run(runs["SIGINT"]), whole("finetune"))


def test_a_second_ctrl_c_ends_at_once_and_keeps_what_was_saved(tmp_path):
    """During an update that would take seconds."""
    long_updates = (*CARTPOLES, "ppo.epochs=200", "checkpoint.every_steps=128")
    run = tmp_path / "run"
    with process(command("finetune", run, long_updates, games="cartpole-a", steps="256")) as child:
        wait_for(child, lambda: any(run.glob("checkpoints/step-*")))
        time.sleep(0.5)  # for the second update to begin: what is asked while a snapshot is written is met before it
        before = {k: v for k, v in run_files(run).items() if "checkpoints" in k}
        child.send_signal(signal.SIGINT)
        for line in child.stdout:
            if "stopping after this update" in line:
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 130, err
    assert "stopped immediately" in out
    assert "Traceback" not in err
    resume_command(out, run)
    assert {k: v for k, v in run_files(run).items() if "checkpoints" in k} == before
    assert [path.name for path in RunFolder(run).snapshots()] == ["step-000000000128"]


# What the signal interrupts (its owner, its name, at which call) → the step that the run is saved at.
INTERRUPTED = {
    "rollout": ("finetune", ContinualPPO, "collect_rollouts", 2, 128),
    "update": ("finetune", ContinualPPO, "_update", 10, 256),
    "periodic scores": ("finetune", ScoreBook, "_play", 2, 384),
    "scores at the end": ("finetune", ScoreBook, "_play", 3, 512),
    "distillation": ("blip-distil", Student, "_update", 4, 512),
}


@pytest.mark.parametrize("moment", INTERRUPTED)
def test_a_run_asked_to_stop_saves_and_resumes_from_the_same_update(moment, whole, tmp_path, monkeypatch):
    agent, owner, name, call, steps = INTERRUPTED[moment]
    run, function, calls = tmp_path / "run", getattr(owner, name), []

    def signalled(*args, **options):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signalled)
        with pytest.raises(InterruptedRunError, match=f"saved at step {steps}; resume with") as caught:
            train(small_run(agent, overrides=SETTINGS[agent]), out=run, threads=1, quiet=True)
    assert caught.value.signal_number == signal.SIGTERM
    assert_equal(resume_run(run), whole(agent))


def test_only_a_second_ctrl_c_raises_keyboard_interrupt():
    said = []
    stop = StopRequest(said.append)
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    with stop.handle_signals():
        stop.check()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # a second request that is not Ctrl-C changes nothing
        assert stop.signal_number == signal.SIGUSR1
        with pytest.raises(StopRequestError):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1
    assert re.match("SIGUSR1: stopping after this update", said[0])
    assert {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS} == before


def test_a_signal_during_a_print_does_not_raise():
    def reentrant(_text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    stop = StopRequest(reentrant)
    with stop.handle_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal_number == signal.SIGTERM


def test_an_ignored_sighup_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.handle_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_is_closed_saves(tmp_path):
    """The system sends SIGHUP, and printing fails."""
    run, (terminal, its) = tmp_path / "run", pty.openpty()
    leader = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    leader += "os.execv(sys.argv[1], sys.argv[1:])"  # a new session whose terminal this is
    arguments = [sys.executable, "-c", leader, *command("finetune", run, FINETUNE)]
    with subprocess.Popen(arguments, stdin=its, stdout=its, stderr=its) as child:
        os.close(its)
        while not any(run.glob("checkpoints/step-*")):
            assert os.read(terminal, 4096), "it ended"
        os.close(terminal)
        assert child.wait(timeout=60) == 129
    assert RunFolder(run).snapshots()
