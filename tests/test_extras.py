"""The command that installs a missing extra."""

import re
import tomllib
from pathlib import Path

import pytest

from blip_rl import extras
from blip_rl.extras import install_command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """A virtual environment of venv: its file has no line of uv."""
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.7\n")
    monkeypatch.setattr(extras.sys, "prefix", str(tmp_path))


def test_extra_in_a_checkout_is_that_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install_command("minatar") == "pip install -e '.[minatar]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("minatar") == f"pip install -e '{ROOT}[minatar]'"


def test_extra_of_an_installed_package_has_the_package_name(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "_ROOT", tmp_path / "site-packages")
    assert install_command("video") == "pip install 'blip-rl[video]'"


def test_extra_in_an_environment_of_uv_is_installed_by_uv(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "_ROOT", tmp_path / "site-packages")
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\n")
    assert install_command("video") == "uv pip install 'blip-rl[video]'"


def test_extra_outside_a_virtual_environment_is_installed_by_pip(monkeypatch, tmp_path):
    monkeypatch.setattr(extras.sys, "prefix", str(tmp_path / "missing"))
    monkeypatch.chdir(ROOT)
    assert install_command("video") == "pip install -e '.[video]'"


def test_extras_are_suggested_through_one_function_and_exist():
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    sources = [*(ROOT / "blip_rl").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in sources if path.name != "extras.py"}
    assert not [path for path, text in texts.items() if "blip-rl[" in text]
    used = set(re.findall(r"install_command\('(\w+)'\)", "".join(texts.values())))
    assert {"minatar", "video", "control", "examples"} <= used <= known
