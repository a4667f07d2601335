"""A game or its worker process fails: the message names it, and no saved state is lost."""

import errno
import functools
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from ale_py import AtariVectorEnv
from gymnasium.envs.classic_control import CartPoleEnv

from blip_rl.errors import RunError
from blip_rl.evaluation import episodes as evaluation
from blip_rl.run.interruption import with_resume_hint
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import ATARI, assert_equal, process, resume_run, settings, small_run

CARTPOLES_ALONE = (*settings("finetune"), "evaluation.before_training=false", "normalize_rewards=false")
"""Without these, the counted calls would start with the evaluation before training, and not all be of training."""

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(
        small_run("finetune", overrides=CARTPOLES_ALONE),
        out=tmp_path_factory.mktemp("whole") / "run",
        threads=1,
        quiet=True,
    )


def fails(patch, owner, name, error, call):
    """The ``call``-th call of a function raises an error."""
    function, calls = getattr(owner, name), []

    @functools.wraps(function)
    def failing(*args, **options):
        calls.append(None)
        if len(calls) == call:
            raise error
        return function(*args, **options)

    patch.setattr(owner, name, failing)


FAULTS = {
    "a step": ("step", RuntimeError("vector::_M_range_check"), 600, "RuntimeError: vector::_M_range_check"),
    "a reset": ("reset", OSError(errno.EIO, "Input/output error"), 20, r"OSError: \[Errno 5\] Input/output error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_game_that_fails_in_training_is_named_and_the_run_resumes(fault, whole, tmp_path, monkeypatch):
    name, error, call, told = FAULTS[fault]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fails(patch, CartPoleEnv, name, error, call)
        with pytest.raises(RunError, match=r"saved at step \d+; resume with: blip-rl train --resume") as caught:
            train(small_run("finetune", overrides=CARTPOLES_ALONE), out=run, threads=1, quiet=True)
    found = re.match(rf"the game CartPole-v1 failed \(one of the seeds (\d+) to (\d+)\): {told}; ", str(caught.value))
    assert found, caught.value
    assert int(found[2]) - int(found[1]) == 3
    assert_equal(resume_run(run), whole)


def test_a_game_that_fails_in_an_evaluation_is_named_with_the_evaluations_seeds(whole, tmp_path, monkeypatch):
    make = evaluation.make_evaluation_env

    def failing(*arguments):
        env = make(*arguments)
        env.venv.step_wait = lambda: (_ for _ in ()).throw(RuntimeError("lost"))
        return env

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "make_evaluation_env", failing)
        with pytest.raises(RunError, match=r"seeds 1000003 to 1000004\): RuntimeError: lost; saved at step 256"):
            train(small_run("finetune", overrides=CARTPOLES_ALONE), out=run, threads=1, quiet=True)
    assert_equal(resume_run(run), whole)


def test_an_emulator_that_fails_is_named(tmp_path, monkeypatch):
    fails(monkeypatch, AtariVectorEnv, "recv", RuntimeError("std::bad_alloc"), 40)
    config = small_run(
        "finetune",
        games="pong",
        steps="128",
        overrides=(*settings("finetune", ATARI), "evaluation.before_training=false"),
    )
    with pytest.raises(RunError, match=r"the game pong failed \(one of the seeds .*bad_alloc; saved at step 64"):
        train(config, out=tmp_path / "run", threads=1, quiet=True)


def test_running_out_of_memory_says_how_to_resume(tmp_path):
    with pytest.raises(RunError, match="MemoryError; no snapshot yet; resume with"), _telling(tmp_path):
        raise MemoryError


def test_a_bug_keeps_its_traceback_and_says_how_to_resume(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, _telling(tmp_path):
        raise ZeroDivisionError
    assert "resume with: blip-rl train --resume" in caught.value.__notes__[0]


def _telling(path):
    return with_resume_hint(RunFolder(path))


# --- worker processes


def children(pid):
    """Return the worker processes of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


@NEEDS_PROC
@pytest.mark.parametrize(
    ("verb", "kept"),
    [
        (("evaluate", "--episodes", "500"), "finished cells are in scores.csv"),
        (("render", "--seconds", "1"), "videos of finished cells are in"),
    ],
    ids=["evaluate", "render"],
)
def test_a_worker_that_is_killed_ends_the_command_with_its_game_and_seeds(verb, kept, finished_run):
    command = ["blip-rl", verb[0], str(finished_run), *verb[1:], "--workers", "2"]
    program = "import sys; from blip_rl.cli import main; sys.argv = sys.argv[1:]; main()"
    with process([sys.executable, "-c", program, *command]) as child:
        end = time.monotonic() + 120
        while len(staff := children(child.pid)) < 2:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(staff[0], signal.SIGKILL)
        _, stderr = child.communicate(timeout=120)
        assert child.returncode == 1, stderr
    assert re.search(r"played cartpole-\w after stage \d \(seeds \d+ to \d+\) died \(killed by SIGKILL\)", stderr)
    assert kept in stderr
    assert f"run again: {' '.join(command)}" in stderr
    assert "Traceback" not in stderr
