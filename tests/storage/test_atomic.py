"""Atomic replacement of files, with concurrent and killed writers."""

import contextlib
import os
import subprocess
import sys

import pytest

from blip_rl.storage import atomic

KILLED = """
import os, sys
from pathlib import Path
from blip_rl.storage import atomic
with atomic.replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
    print("writing", flush=True)
    sys.stdin.read()
"""


def writer(path, then):
    return subprocess.Popen([sys.executable, "-c", KILLED, path, then], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_the_old_content(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with contextlib.suppress(KeyError), atomic.replacing(path) as beside:
        beside.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with atomic.replacing(path) as first, atomic.replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # renamed last
    assert names(tmp_path) == ["file"]


def test_leftovers_of_a_killed_writer_are_removed_by_the_next_write(tmp_path):
    with writer(tmp_path / "one", "kill") as process:
        assert process.wait() == -9
    (tmp_path / ".stage-01-pong.zip.writing").write_text("left by version 0.1.0")
    assert len(names(tmp_path)) == 2
    atomic.replace_bytes(tmp_path / "other", b"whole")
    assert names(tmp_path) == ["other"]


def test_what_a_living_writer_writes_stays(tmp_path):
    with writer(tmp_path / "one", "wait") as process:
        assert process.stdout.readline() == b"writing\n"
        atomic.replace_bytes(tmp_path / "other", b"whole")
        assert len(names(tmp_path)) == 2
        process.communicate()
    assert (tmp_path / "one").read_text() == "half"
    assert names(tmp_path) == ["one", "other"]


def test_other_hidden_files_are_not_swept(tmp_path):
    for name in (".profile", ".mine.tmp", "a.zip.writing", ".blip-rl-notes.tmp"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".x.zip.writing").mkdir()
    before = names(tmp_path)
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == before


def test_permissions_are_those_of_any_new_file(tmp_path):
    atomic.replace_bytes(tmp_path / "ours", b"")
    (tmp_path / "any").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("write", [lambda p: atomic.replace_bytes(p, b"new"), atomic.separate])
def test_other_names_of_a_file_keep_their_content(write, tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("old")
    other.hardlink_to(path)
    write(path)
    with path.open("a") as file:
        file.write(" and more")
    assert other.read_text() == "old"


def test_a_part_of_a_file_is_separated(tmp_path):
    path = tmp_path / "file"
    path.write_text("0123456789")
    atomic.separate(path, 4)
    assert path.read_text() == "0123"


def test_a_read_only_folder_is_an_error_message(tmp_path, monkeypatch):
    atomic.check_writable(tmp_path)
    assert names(tmp_path) == []

    def refusing(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match="Read-only"):
        atomic.check_writable(tmp_path)
