"""Atomic folders: complete or absent, and damage is detected."""

import contextlib
import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from blip_rl.storage import atomic, checkpoint


def write(path, **files):
    with atomic.writing_folder(path) as beside:
        for name, text in files.items():
            (beside / name).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    write(path, one="first", two="second")
    return path


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "folder"
    with atomic.writing_folder(path) as beside:
        (beside / "one").write_text("1")
        assert not path.exists()
    assert names(path) == ["digests.json", "one"]
    assert names(tmp_path) == ["folder"]
    atomic.check_folder(path)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with contextlib.suppress(KeyError), atomic.writing_folder(tmp_path / "folder") as beside:
        (beside / "one").write_text("new")
        raise KeyError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_failing_system_call_leaves_what_was_there(name, folder, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        with pytest.raises(OSError, match="No space left"):
            write(folder.with_name("new"), one="new")
    atomic.check_folder(folder)
    assert (folder / "one").read_text() == "first"
    assert names(folder.parent) == ["folder"]


def test_every_file_is_flushed_before_the_folder_appears(tmp_path, monkeypatch):
    flushed, path = [], tmp_path / "folder"
    work = atomic.flush
    monkeypatch.setattr(atomic, "flush", lambda p: flushed.append((p.name, path.exists())) or work(p))
    write(path, one="1", two="2")
    assert {name for name, appeared in flushed if not appeared} == {"one", "two", "digests.json", ".folder.writing"}
    assert flushed[-1] == (tmp_path.name, True)


def test_a_folder_is_never_replaced(folder):
    """Between removing the old one and renaming the new one there would be neither."""
    with pytest.raises(FileExistsError, match=r"never replaced: '.*folder'"):
        write(folder, three="third")
    assert names(folder.parent) == ["folder"]
    assert names(folder) == ["digests.json", "one", "two"]
    atomic.check_folder(folder)


@pytest.mark.parametrize("name", ["one", "digests.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text()[:-2]),
        lambda path: path.write_text("x" + path.read_text()[1:]),
        lambda path: path.write_text(""),
        lambda path: path.unlink(),
    ],
)
def test_damage_is_reported_with_the_file(name, damage, folder):
    damage(folder / name)
    with pytest.raises(atomic.DamagedError, match=str(folder)):
        atomic.check_folder(folder)


@pytest.mark.parametrize(
    "digests", ["[]", "3", '{"../outside": "0"}', '{"/etc/hostname": "0"}', '{"one": 3}', '{"one": null}', "{"]
)
def test_digests_that_are_none_are_damage(digests, folder):
    (folder.parent / "outside").write_text("")
    (folder / "digests.json").write_text(digests)
    with pytest.raises(atomic.DamagedError):
        atomic.check_folder(folder)


@pytest.mark.parametrize("kept", [(), ("one",)])
def test_a_file_without_a_digest_is_damage(kept, folder):
    """An emptied digests.json must not make modified files valid."""
    digests = json.loads((folder / "digests.json").read_text())
    (folder / "digests.json").write_text(json.dumps({name: digests[name] for name in kept}))
    with pytest.raises(atomic.DamagedError, match=r"digests.json' has no digest of .*two"):
        atomic.check_folder(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    (tmp_path / "same").write_text("first")
    (folder / "one").unlink()
    (folder / "one").symlink_to(tmp_path / "same")
    with pytest.raises(atomic.DamagedError, match="not a file of this folder"):
        atomic.check_folder(folder)


def test_folders_of_early_versions_have_no_digests(folder):
    (folder / "digests.json").unlink()
    atomic.check_folder(folder, required=False)
    with pytest.raises(atomic.DamagedError):
        atomic.check_folder(folder)
    shutil.rmtree(folder)
    write(folder, one="1")
    (folder / "one").write_text("2")
    with pytest.raises(atomic.DamagedError):
        atomic.check_folder(folder, required=False)


def test_a_folder_is_removed_atomically(folder, monkeypatch):
    """A folder is renamed before its files are deleted, so a kill in between leaves no incomplete folder."""
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
    atomic.remove_folder(folder)
    assert names(folder.parent) == [".folder.removing"]
    monkeypatch.undo()
    atomic.recover_folders(folder.parent)
    assert names(folder.parent) == []
    atomic.remove_folder(folder)  # not there: nothing to do


def complete_but_not_renamed(folder, name):
    return folder.rename(folder.with_name(f".{name}.writing"))


def test_a_complete_copy_gets_its_name(folder):
    """Killed between the last flush and the rename."""
    complete_but_not_renamed(folder, "step-000000000128-2")
    atomic.recover_folders(folder.parent)
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
        lambda left: left.with_name("name").mkdir(),
    ],
)
def test_an_incomplete_copy_and_one_whose_name_is_taken_are_swept(damage, folder):
    left = complete_but_not_renamed(folder, "name")
    damage(left)
    atomic.recover_folders(folder.parent)
    assert names(folder.parent) in ([], ["name"])
    assert not any(folder.with_name("name").glob("*"))


@pytest.mark.parametrize("name", [".", "..", "a.b", ""])
def test_a_copy_with_a_strange_name_is_swept(name, folder):
    complete_but_not_renamed(folder, name)
    atomic.recover_folders(folder.parent)
    assert names(folder.parent) == []


def test_sweeping_takes_only_what_was_left_half_done(folder, tmp_path):
    (tmp_path / ".other.writing").mkdir()
    (tmp_path / ".other.writing" / "half").write_text("")
    (tmp_path / ".text.writing").write_text("")
    (tmp_path / ".link.removing").symlink_to(folder)
    (tmp_path / ".lock").write_text("")
    atomic.recover_folders(tmp_path)
    assert names(tmp_path) == [".lock", "folder"]
    atomic.check_folder(folder)


def test_a_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "text"
    atomic.write_text(path, "one")
    monkeypatch.setattr(atomic, "flush", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        atomic.write_text(path, "two")
    assert path.read_text() == "one"


def test_tensors_that_cannot_be_written_are_an_error_of_the_system(tmp_path):
    tensors = {"a": torch.arange(3)}
    checkpoint.save_tensors(tensors, tmp_path / "t")
    assert torch.equal(load_file(tmp_path / "t")["a"], tensors["a"])
    with pytest.raises(OSError, match="nowhere"):
        checkpoint.save_tensors(tensors, tmp_path / "nowhere" / "t")


def test_digests_are_sha256(folder):
    assert json.loads((folder / "digests.json").read_text())["one"] == (
        "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"  # printf first | sha256sum
    )
