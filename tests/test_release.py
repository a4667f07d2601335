"""The release script refuses a checkout whose versions disagree, and an sdist that lacks files."""

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import blip_rl as br
from blip_rl import __version__
from blip_rl.sharing import players

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.3.0] - 2026-02-28\n\n- New.\n\n## [0.2.0] - 2026-01-31\n\n- Old.\n"


@pytest.fixture
def release(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("check_wheel", None)


@pytest.fixture
def checkout(tmp_path):
    """A git repository of version 0.3.0."""
    (tmp_path / "blip_rl").mkdir()
    (tmp_path / "blip_rl" / "__init__.py").write_text('__version__ = "0.3.0"\n')
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 0.3.0\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "pyproject.toml").write_text('[tool.hatch.build.targets.sdist]\ninclude = ["blip_rl"]\n')
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    return tmp_path


def test_a_consistent_checkout_can_be_released(release, checkout):
    assert release.problems(checkout) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("CITATION.cff", "version: 0.3.0", "version: 0.2.0", "'CITATION.cff': '0.2.0'}: expected the same"),
        ("blip_rl/__init__.py", "0.3.0", "0.4.0", "expected 0.4.0 (move the entries below [Unreleased]"),
        ("CHANGELOG.md", "2026-02-28", "2026-02-30", "[0.3.0] has the date 2026-02-30: expected YYYY-MM-DD"),
        ("CHANGELOG.md", "- Old.", "- Older.", "uncommitted changes: CHANGELOG.md"),
    ],
)
def test_a_checkout_that_is_not_ready_is_refused(release, checkout, file, old, new, message):
    path = checkout / file
    path.write_text(path.read_text().replace(old, new))
    assert message in "\n".join(release.problems(checkout))


def test_files_that_an_sdist_lacks_are_named(release, checkout, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(checkout / "CITATION.cff", "blip_rl-0.3.0/CITATION.cff")
    assert release.missing(tmp_path / "x.tar.gz", checkout) == ["blip_rl/__init__.py"]
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(checkout / "blip_rl" / "__init__.py", "blip_rl-0.3.0/blip_rl/__init__.py")
    assert release.missing(tmp_path / "x.tar.gz", checkout) == []


@pytest.fixture
def _few_states(monkeypatch):
    monkeypatch.setattr(players, "_STEPS", 50)


@pytest.mark.usefixtures("_few_states")
def test_the_archive_has_agents_that_open_and_play(release, finished_run, tmp_path):
    archive = tmp_path / "dist" / "agents-1.tar.gz"
    release.pack_agents([finished_run], archive)
    with tarfile.open(archive) as tar:
        assert all(entry.size <= release.MOST_BYTES and not entry.uname for entry in tar)
        tar.extractall(tmp_path, filter="data")
    agent = br.load(tmp_path / "agents-1" / finished_run.name).agent(stage=2, game="cartpole-a")
    assert agent.predict(agent.make_env().reset())[0].shape == (1,)


@pytest.mark.usefixtures("_few_states")
def test_agents_that_are_too_large_or_have_one_name_are_refused(release, finished_run, tmp_path, monkeypatch):
    archive = tmp_path / "agents.tar.gz"
    with pytest.raises(ValueError, match="two runs have the same name"):
        release.pack_agents([finished_run, finished_run], archive)
    monkeypatch.setattr(release, "MOST_BYTES", 1_000)
    with pytest.raises(ValueError, match=r"--agents: run/\S+ has [\d,]+ bytes: expected at most 1,000 \(leave"):
        release.pack_agents([finished_run], archive)
    assert not archive.exists()


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_wheel_may_lack_packages_of_extras_alone(release):
    packages = set(sys.modules["check_wheel"].packages_of_extras())
    assert {"mlflow", "wandb", "huggingface_hub", "minatar"} <= packages
    assert not {"gymnasium", "torch", "sphinx", "pytest"} & packages
