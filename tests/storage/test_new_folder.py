"""Folders that are created whole or not at all."""

import contextlib
import subprocess
import sys

import pytest

from blip_rl.storage.new_folder import new_folder

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


def test_what_a_killed_process_left_goes_with_the_next_and_what_a_living_one_fills_stays(tmp_path):
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
