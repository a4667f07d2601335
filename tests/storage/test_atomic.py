"""Atomic files and folders: complete or unchanged, with concurrent, failing and killed writers."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blip_rl.errors import UserError
from blip_rl.storage import atomic

WRITER = """
import os, sys
from pathlib import Path
from blip_rl.storage import atomic
write = getattr(atomic, sys.argv[1])
with write(Path(sys.argv[2])) as beside:
    (beside / "one" if beside.is_dir() else beside).write_text("half")
    if sys.argv[3] == "kill":
        os.kill(os.getpid(), 9)
    print("writing", flush=True)
    sys.stdin.read()
"""
MARK, BESIDE = ".blip-rl-0123456789abcdef.tmp", ".blip-rl-0123456789abcdef.new"


def writer(write, path, then):
    command = [sys.executable, "-c", WRITER, write.__name__, path, then]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def fill(path, **files):
    with atomic.new_folder_with_digests(path) as beside:
        for name, text in files.items():
            (beside / name).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    fill(path, one="first", two="second")
    return path


# --- files


def test_a_file_has_its_old_content_until_the_block_ends(file):
    with atomic.replacing(file) as beside:
        beside.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    with pytest.raises(KeyError), atomic.replacing(file) as beside:  # noqa: PT012
        beside.write_text("half")
        raise KeyError
    assert file.read_text() == "new"
    assert names(file.parent) == ["file"]


def test_two_writers_of_one_file_do_not_share_a_temporary_file(file):
    with atomic.replacing(file) as first, atomic.replacing(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"  # renamed last
    assert names(file.parent) == ["file"]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    atomic.replace_bytes(tmp_path / "ours", b"")
    (tmp_path / "any").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("write", [lambda path: atomic.replace_text(path, "new"), atomic.separate])
def test_other_names_of_a_file_keep_their_content(write, file, tmp_path):
    other = tmp_path / "other"
    other.hardlink_to(file)
    write(file)
    with file.open("a") as stream:
        stream.write(" and more")
    assert other.read_text() == "old"


def test_a_file_can_be_separated_and_truncated(file):
    atomic.separate(file, 2)
    assert file.read_text() == "ol"


def test_check_writable_raises_in_a_read_only_folder(tmp_path, monkeypatch):
    atomic.check_writable(tmp_path)
    assert names(tmp_path) == []

    def refusing(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match="Read-only"):
        atomic.check_writable(tmp_path)


# --- folders


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a" / "b" / "folder"
    with atomic.new_folder_with_digests(path) as beside:
        (beside / "one").write_text("1")
        assert not path.exists()
    assert names(path) == ["digests.json", "one"]
    assert names(path.parent) == ["folder"]
    atomic.check_folder(path)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_no_folder_and_no_new_parents(error, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("")
    with pytest.raises(error), atomic.new_folder(tmp_path / "a" / "b" / "c") as beside:  # noqa: PT012
        (beside / "one").write_text("1")
        raise error
    assert names(tmp_path / "a") == ["mine"]


def test_an_existing_folder_is_not_replaced(folder):
    """Between removing the old one and renaming the new one there would be neither."""
    with pytest.raises(FileExistsError, match=r"never replaced: '.*folder'"):
        fill(folder, three="third")
    with pytest.raises(FileExistsError), atomic.new_folder(folder.with_name("empty")):
        folder.with_name("empty").mkdir()
    assert names(folder.parent) == ["empty", "folder"]
    assert names(folder) == ["digests.json", "one", "two"]


def test_a_folder_is_renamed_before_its_files_are_deleted(folder, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
    atomic.remove(folder)
    assert [name[-4:] for name in names(folder.parent)] == [".new", ".tmp"]
    monkeypatch.undo()
    atomic.recover(folder.parent)
    assert names(folder.parent) == []
    atomic.remove(folder)  # does nothing if it does not exist


# --- the disk


def test_files_and_folders_are_flushed_before_and_after_the_rename(file, monkeypatch):
    events, fsync, rename, replace = [], os.fsync, os.rename, os.replace

    def name_of(descriptor):
        return Path(f"/proc/self/fd/{descriptor}").readlink().name[-4:]

    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(name_of(fd)), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    atomic.replace_bytes(file, b"new")
    assert events == [".tmp", "rename", file.parent.name[-4:]]
    events.clear()
    fill(file.with_name("f.new"), one="1", two="2")
    assert sorted(events[:4]) == [".new", "json", "one", "two"]
    assert events[4:] == ["rename", file.parent.name[-4:]]


@pytest.mark.parametrize("name", ["fsync", "rename", "replace"])
def test_a_failing_system_call_leaves_what_was_there(name, file, folder, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, failing)
    if name != "rename":
        with pytest.raises(OSError, match="No space left"):
            atomic.replace_text(file, "new")
    if name != "replace":
        with pytest.raises(OSError, match="No space left"):
            fill(folder.with_name("new"), one="new")
    assert file.read_text() == "old"
    atomic.check_folder(folder)
    assert names(folder.parent) == ["file", "folder"]


# --- writers that were killed


@pytest.mark.parametrize("write", [atomic.replacing, atomic.new_folder])
def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_kept(write, tmp_path):
    with writer(write, tmp_path / "one", "kill") as process:
        assert process.wait() == -9
    left = len(names(tmp_path))
    assert left == (1 if write is atomic.replacing else 2)
    with writer(write, tmp_path / "two", "wait") as process:
        assert process.stdout.readline() == b"writing\n"
        atomic.replace_bytes(tmp_path / "other", b"")
        assert len(names(tmp_path)) == 1 + left  # the killed one's are gone
        process.communicate()
    assert names(tmp_path) == ["other", "two"]


def test_other_hidden_files_are_kept(tmp_path):
    for name in (".profile", ".mine.tmp", "a.zip.writing", ".blip-rl-notes.tmp", f"{MARK}2"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".x.zip.writing").mkdir()
    before = names(tmp_path)
    atomic.recover(tmp_path)
    assert names(tmp_path) == before


def killed_before_the_rename(folder, name):
    folder.with_name(MARK).touch()
    folder.with_name(BESIDE).mkdir()
    return folder.rename(folder.with_name(BESIDE) / name)


def test_a_complete_folder_gets_its_name(folder):
    killed_before_the_rename(folder, "step-000000000128-2")
    atomic.recover(folder.parent)
    assert names(folder.parent) == ["step-000000000128-2"]
    atomic.check_folder(folder.with_name("step-000000000128-2"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda left: (left / "one").unlink(),
        lambda left: (left / "one").write_text("fir"),
        lambda left: (left / "digests.json").unlink(),
        lambda left: os.truncate(left / "digests.json", 30),
        lambda left: os.truncate(left / "digests.json", 0),
        lambda left: left.parent.with_name("name").mkdir(),  # the name is taken
    ],
)
def test_an_incomplete_folder_is_removed(damage, folder):
    left = killed_before_the_rename(folder, "name")
    damage(left)
    atomic.recover(folder.parent)
    assert names(folder.parent) in ([], ["name"])
    assert not any(folder.with_name("name").glob("*"))


@pytest.mark.parametrize("function", ["file_digest", "read_json"])
def test_a_complete_folder_that_cannot_be_read_now_is_kept(function, folder, monkeypatch):
    """Removing it would lose a snapshot to a single read error."""
    left = killed_before_the_rename(folder, "step-000000000128-2")

    def failing(file):
        error = OSError(errno.EIO, "Input/output error", str(file))
        raise error if function == "file_digest" else UserError(f"'{file}' cannot be read") from error

    with monkeypatch.context() as patch:
        patch.setattr(atomic, function, failing)
        atomic.recover(folder.parent)
    assert left.exists()
    atomic.recover(folder.parent)
    atomic.check_folder(folder.with_name("step-000000000128-2"))


def test_recovery_follows_no_links(folder, tmp_path):
    (tmp_path / "there").mkdir()
    folder.rename(tmp_path / "there" / "folder")
    for mark, beside, target in (("0" * 16, "", "there"), ("1" * 16, "x", "../there/folder")):
        (tmp_path / f".blip-rl-{mark}.tmp").touch()
        link = tmp_path / f".blip-rl-{mark}.new" / beside
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
    atomic.recover(tmp_path)
    assert names(tmp_path) == [f".blip-rl-{'0' * 16}.new", f".blip-rl-{'0' * 16}.tmp", "there"]
    atomic.check_folder(tmp_path / "there" / "folder")
