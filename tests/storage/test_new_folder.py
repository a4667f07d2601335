"""Names of new folders: never the same one for two processes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blip_rl.errors import UserError
from blip_rl.reporting import page
from blip_rl.storage.new_folder import make_folder, take_name
from blip_rl.storage.run_folder import RunFolder, planned_folder
from tests.small_runs import small_config


def test_folders_created_at_the_same_time_get_different_names(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_folder(tmp_path / "runs" / "x"), range(16)))
    assert sorted(path.name for path in made) == sorted(["x", *(f"x-{number}" for number in range(2, 17))])


def test_a_taken_name_is_refused_unless_it_may_be_numbered(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"'.*x' exists: .* choose a new --out"):
        take_name(tmp_path / "x", Path.mkdir, numbered=False)


def test_default_names_of_runs_that_begin_within_a_second_differ(tmp_path, monkeypatch):
    """Both were planned before either was created."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blip_rl.storage.run_folder.stamped", lambda stem: Path("runs") / stem)
    planned = [planned_folder(None, small_config()) for _ in range(2)]
    made = [folder.create("", "cpu", {}) for folder in planned]
    assert [folder.path.name for folder in made] == ["cartpole-a+cartpole-b-blip-seed0"] * 1 + [
        "cartpole-a+cartpole-b-blip-seed0-2"
    ]
    assert made[1].config.parent == made[1].path


def test_the_second_of_two_runs_with_the_same_out_is_refused(tmp_path):
    first, second = (RunFolder.planned(tmp_path / "run") for _ in range(2))
    first.create("", "cpu", {})
    with pytest.raises(UserError, match="exists"):
        second.create("", "cpu", {})
    assert (tmp_path / "run" / "config.toml").exists()


def test_reports_of_several_runs_within_a_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "stamped", lambda stem: Path("runs") / stem)
    assert [str(page._folder([None, None], None)) for _ in range(2)] == ["runs/report", "runs/report-2"]
