"""The Slurm batch script: its exit codes and its calls to ``blip-rl``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "scripts" / "slurm.sh"


@pytest.fixture
def batch(tmp_path):
    """Run the job script with a ``blip-rl`` that is this checkout's."""
    program = tmp_path / "bin" / "blip-rl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blip_rl "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])

    def run(*arguments):
        return subprocess.run(
            ["bash", SLURM, *arguments], env={**os.environ, "PATH": path}, capture_output=True, text=True
        )

    return run


def test_a_run_that_is_finished_is_a_job_that_went_well(batch, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "a run")
    done = batch(str(run))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_is_a_job_that_failed(batch, tmp_path):
    done = batch(str(tmp_path / "run"), "--games", "kungfoo")
    assert done.returncode == 2
    assert "kungfoo" in done.stderr
