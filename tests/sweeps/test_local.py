"""The local engine: real processes, killed, stopped, and left by a sweep that was killed."""

import contextlib
import dataclasses
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blip_rl.errors import InterruptedRunError
from blip_rl.recipes import parse_run_config
from blip_rl.run.train import train
from blip_rl.storage.lock import is_locked
from blip_rl.storage.run_folder import RunFolder
from blip_rl.sweeps.job import Job, run_job
from blip_rl.sweeps.local import LocalEngine
from blip_rl.sweeps.manifest import save_manifest
from blip_rl.sweeps.run import run_sweep
from blip_rl.sweeps.worker import FOLDER_OF_SCRIPT, decode_job, decode_outcome, encode_job
from tests.run.broken_off import CARTPOLES, assert_equal, process, wait_for
from tests.sweeps.small_sweeps import small_manifest

EARLY = (*CARTPOLES, "checkpoint.every_steps=512", "evaluation.every_steps=2048")
DRIVER = """
import sys
from pathlib import Path
from blip_rl.sweeps.local import LocalEngine
from blip_rl.sweeps.manifest import load_manifest
from blip_rl.sweeps.run import run_sweep
run_sweep(Path(sys.argv[2]), load_manifest(Path(sys.argv[1])), LocalEngine(2), retries=0)
"""


@pytest.fixture
def job(tmp_path):
    return small_manifest().jobs(tmp_path)[0]


def ends(engine, seconds=60):
    end = time.monotonic() + seconds
    while not (found := engine.poll(0.2)):
        assert time.monotonic() < end, "it took too long"
    return found


def interrupt_when(condition):
    while not condition():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_job_is_sent_to_a_worker_and_arrives_equal(job):
    line = encode_job(job)
    assert line.count(b"\n") == 1
    assert decode_job(line) == job


def test_a_killed_worker_is_lost_and_one_that_is_stopped_early_is_interrupted(job):
    for number, status, word in ((signal.SIGKILL, "lost", "SIGKILL"), (signal.SIGTERM, "interrupted", "stopped")):
        with LocalEngine(1) as engine:
            engine.submit(job)
            assert engine.free == 0
            pid = int(engine.where(job.name).split()[1])
            os.kill(pid, number)
            (outcome,) = ends(engine)
            assert (outcome.name, outcome.status) == (job.name, status)
            assert word in outcome.message
            assert (engine.free, engine.where(job.name)) == (1, "")


TORCH = """
import pathlib, time
pathlib.Path("loading").touch()
try:
    time.sleep(60)
except BaseException:
    raise AttributeError("partially initialized module 'torch'")
"""


def test_a_job_that_is_stopped_while_it_loads_libraries_is_interrupted(job, tmp_path, monkeypatch):
    """Torch's modules make other errors of an exception in the middle of an import."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "early" / "torch").mkdir(parents=True)
    (tmp_path / "early" / "torch" / "__init__.py").write_text(TORCH)
    path = [str(tmp_path / "early"), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    with LocalEngine(1) as engine:
        engine.submit(job)
        end = time.monotonic() + 60
        while not (tmp_path / "loading").exists():
            assert time.monotonic() < end, engine.poll(0)
            time.sleep(0.01)
        engine.stop()
        (outcome,) = ends(engine)
    assert (outcome.status, outcome.message) == ("interrupted", "stopped")


def test_nothing_is_left_running_when_an_engine_is_left(job):
    with LocalEngine(1) as engine:
        engine.submit(job)
        pid = int(engine.where(job.name).split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "3"]), ("4,5,6,7", ["4", "7"]), ("GPU-5a, 1,MIG-2b,GPU-7c", ["GPU-5a", "GPU-7c"])],
)
def test_a_job_on_a_gpu_sees_that_gpu_alone(visible, expected, job, monkeypatch):
    """One of those that the sweep may use."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.append(options) or pytest.skip())
    engine = LocalEngine(2, (0, 3))
    for gpu in expected:
        with pytest.raises(pytest.skip.Exception):
            engine.submit(job)
        assert started.pop()["env"]["CUDA_VISIBLE_DEVICES"] == gpu


def test_a_sweep_that_was_killed_and_stopped_ends_like_its_run_alone(tmp_path):
    """SIGKILL of the sweep, then Ctrl-C, then to the end."""
    # Seconds of training remain after each interruption, also when this process gets the processor late.
    manifest, folder = small_manifest(EARLY, agents="l2", steps="4096"), tmp_path / "sweep"
    (job,) = manifest.jobs(folder)
    save_manifest(tmp_path, manifest)
    with process([sys.executable, "-c", DRIVER, str(tmp_path), str(folder)]) as driver:
        wait_for(driver, RunFolder(job.path).snapshots)
        driver.send_signal(signal.SIGKILL)
    # Again at once, while the worker may still be saving.
    threading.Thread(target=interrupt_when, args=(lambda: "resuming" in job.log.read_text(),)).start()
    with pytest.raises(InterruptedRunError):
        run_sweep(folder, manifest, LocalEngine(1), retries=0)
    assert not is_locked(job.path / ".lock")
    run_sweep(folder, manifest, LocalEngine(1), retries=0)
    alone = train(parse_run_config(job.recipe, job.name), out=tmp_path / job.name, threads=1, quiet=True)
    assert_equal(job.path, alone)
    log = job.log.read_text()
    for number in ("SIGTERM", "SIGINT"):  # SIGTERM: as its sweep was killed
        assert f"{number}: stopping after this update" in log
    assert shlex.split((job.path / "command.txt").read_text()) == ["blip-rl", *job.train_words]


def test_a_finished_run_is_left_alone_and_a_folder_with_another_run_is_a_failure(job):
    (job.path / "checkpoints" / "stage-02").mkdir(parents=True)
    (job.path / "config.toml").write_text(job.recipe)
    before = changes(job.path)
    assert run_job(job).status == "finished"
    other = dataclasses.replace(job, recipe=job.recipe.replace("seed = 0", "seed = 1", 1))
    outcome = run_job(other)
    assert outcome.status == "failed"
    assert f"'{job.path}' contains a different run from the sweep's" in outcome.message
    assert outcome.message in job.log.read_text()
    assert changes(job.path) == before


def changes(run):
    """Path → time of its last change."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_the_outcome_of_a_worker_arrives(job):
    with LocalEngine(1) as engine:
        engine.submit(dataclasses.replace(job, recipe="nonsense"))
        (outcome,) = ends(engine)
    assert (outcome.name, outcome.status) == (job.name, "failed")
    assert f"the recipe of {job.name}: not valid TOML" in outcome.message
    assert outcome.seconds > 0
    assert outcome.message in job.log.read_text()


def test_a_worker_imports_nothing_from_the_working_directory(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("random", "json", "cuda"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()")
    with LocalEngine(1) as engine:
        engine.submit(dataclasses.replace(job, recipe="nonsense"))
        (outcome,) = ends(engine)
    assert not (tmp_path / "imported").exists()
    assert f"the recipe of {job.name}: not valid TOML" in outcome.message


def test_a_process_may_have_many_open_files(job):
    """An engine in a program of the user, or many workers: select() takes descriptors below 1,024."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        while opened.enter_context(Path(os.devnull).open()).fileno() < 1100:
            pass
        with LocalEngine(1) as engine:
            engine.submit(dataclasses.replace(job, recipe="nonsense"))
            (outcome,) = ends(engine)
    assert outcome.status == "failed"
    assert "not valid TOML" in outcome.message


def test_a_worker_finds_modules_beside_the_script_that_starts_the_sweep(tmp_path):
    """They come last: a file such as random.py there must not hide an installed module."""
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "random.py").write_text("raise AssertionError('imported')")
    code = """
import blip_rl.sweeps.worker as worker
def run(job):
    import beside, random
    return worker.Outcome(job.name, "finished", random.__file__)
worker.run_job = run
worker.main()
"""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, FOLDER_OF_SCRIPT: str(tmp_path)},
    ) as worker:
        worker.stdin.write(encode_job(Job("a", tmp_path / "a", tmp_path / "log", "", ())))
        worker.stdin.flush()  # and kept open: its end would stop the worker
        outcome = decode_outcome(worker.stdout.read())
    assert Path(outcome.message).parent != tmp_path
