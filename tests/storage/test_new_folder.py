"""New folders: complete or absent, and never the same one for two processes."""

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blip_rl.errors import UserError
from blip_rl.report import page
from blip_rl.storage.new_folder import make_folder, new_folder, take_name
from blip_rl.storage.run_folder import RunFolder, planned_folder
from tests.small_runs import small_config

FILL = """
import os, sys
from pathlib import Path
from blip_rl.storage.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    folder.mkdir()
    (folder / "one").write_text("1")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
    print("filling", flush=True)
    sys.stdin.read()
"""


def filling(path, then):
    return subprocess.Popen([sys.executable, "-c", FILL, path, then], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def fill(path, text="1"):
    with new_folder(path) as folder:
        folder.mkdir()
        (folder / "one").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_full(tmp_path):
    path = tmp_path / "a" / "b" / "run"
    with new_folder(path) as folder:
        folder.mkdir()
        (folder / "one").write_text("1")
        assert not path.exists()
    assert names(path) == ["one"]
    assert names(path.parent) == ["run"]


def test_a_failure_leaves_not_even_parents(tmp_path):
    for error in (OSError, KeyboardInterrupt):
        with contextlib.suppress(error), new_folder(tmp_path / "a" / "b" / "run") as folder:
            folder.mkdir()
            (folder / "one").write_text("1")
            raise error
        assert names(tmp_path) == []


def test_what_was_there_stays(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("")
    with contextlib.suppress(KeyError), new_folder(tmp_path / "a" / "run"):
        raise KeyError
    assert names(tmp_path / "a") == ["mine"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError), new_folder(tmp_path / "run") as folder:  # noqa: PT012
        folder.mkdir()
        (tmp_path / "run").mkdir()
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == []


def test_leftovers_of_killed_processes_are_removed_and_those_of_live_ones_kept(tmp_path):
    with filling(tmp_path / "one", "kill") as process:
        process.wait()
    assert len(names(tmp_path)) == 1
    with filling(tmp_path / "two", "wait") as process:
        assert process.stdout.readline() == b"filling\n"
        assert len(names(tmp_path)) == 1  # the first one's is gone
        fill(tmp_path / "three")
        assert len(names(tmp_path)) == 2
        process.communicate()
    assert names(tmp_path) == ["three", "two"]


def test_folders_made_at_once_get_different_names(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_folder(tmp_path / "runs" / "x"), range(16)))
    assert sorted(path.name for path in made) == sorted(["x", *(f"x-{number}" for number in range(2, 17))])


def test_a_name_that_was_asked_for_is_not_changed(tmp_path):
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


def test_the_same_out_at_once_is_a_mistake_of_the_second(tmp_path):
    first, second = (RunFolder.planned(tmp_path / "run") for _ in range(2))
    first.create("", "cpu", {})
    with pytest.raises(UserError, match="exists"):
        second.create("", "cpu", {})
    assert (tmp_path / "run" / "config.toml").exists()


def test_reports_of_several_runs_within_a_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "stamped", lambda stem: Path("runs") / stem)
    assert [str(page._folder([None, None], None)) for _ in range(2)] == ["runs/report", "runs/report-2"]
