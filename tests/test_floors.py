"""The lowest versions that pyproject.toml allows: which they are, and that every verb works with them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "check_floors.py"


@pytest.fixture
def floors():
    spec = importlib.util.spec_from_file_location("check_floors", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.floors


PROJECT = """[project]
dependencies = ["torch>=2.6", "gymnasium[atari]>=1.1,<2"]
[project.optional-dependencies]
control = ["gymnasium[classic-control]>=1.1,<2"]
video = ["av>=14.0"]
dev = ["ruff>=0.9"]
"""


def test_every_dependency_is_pinned_to_its_floor_but_torch(floors):
    pins = floors(PROJECT, "numpy==2.4\ntorch==2.13.0\n", torch_floor=False)
    assert pins == ["torch==2.13.0", "gymnasium==1.1", "av==14.0"]
    assert floors(PROJECT, "", torch_floor=True)[0] == "torch==2.6"


def test_a_dependency_without_a_floor_is_refused(floors):
    with pytest.raises(ValueError, match=r"av in pyproject.toml has no floor"):
        floors(PROJECT.replace("av>=14.0", "av"), "torch==2.13.0", torch_floor=False)


def test_our_own_dependencies_have_floors(floors):
    pins = floors((ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text(), torch_floor=False)
    versions = dict(pin.split("==") for pin in pins)
    # Before 2.21 it imports pkg_resources, which setuptools has not had since 82.
    assert tuple(map(int, versions["tensorboard"].split("."))) >= (2, 21)


@pytest.mark.slow
def test_every_verb_works_at_the_floors(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
