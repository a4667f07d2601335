"""The same recipe in two processes with different hash seeds gives the same bytes, except for times."""

import contextlib
import hashlib
import os
import subprocess

import pytest

from tests.run.broken_off import ATARI, command, curves, settings

TIMED = ("events", "speed.csv", "environment.json", "command.txt")
RUNS = {
    "cartpole": {"agent": "blip", "overrides": settings("blip")},
    "atari": {"agent": "finetune", "overrides": ATARI, "games": "pong,boxing", "steps": "64"},
}


def files(run):
    """Return the digests of all files without times or paths."""
    found = sorted(path for path in run.rglob("*") if path.is_file() and not path.name.startswith(TIMED))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("kind", RUNS)
def test_two_processes_write_the_same_run(kind, tmp_path):
    with contextlib.ExitStack() as opened:
        children = []
        for number in (1, 2):
            words = command(out=tmp_path / f"run-{number}", **RUNS[kind])
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(number)}
            child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
            opened.callback(child.kill)
            children.append(child)
        for child in children:
            _, stderr = child.communicate(timeout=300)
            assert child.returncode == 0, stderr
    first, second = (tmp_path / f"run-{number}" for number in (1, 2))
    assert {"config.toml", "scores.csv", "bits.csv", "checkpoints/stage-02/policy.safetensors"} <= set(files(first))
    assert files(first) == files(second)
    assert len(curves(first)) > 20
    assert curves(first) == curves(second)
