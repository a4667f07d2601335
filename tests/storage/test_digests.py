"""Damage to a folder with digests is detected."""

import json

import pytest

from blip_rl.storage import atomic


@pytest.fixture
def folder(tmp_path):
    with atomic.new_folder_with_digests(tmp_path / "folder") as beside:
        (beside / "one").write_text("first")
        (beside / "two").write_text("second")
    return tmp_path / "folder"


def test_digests_are_sha256(folder):
    assert json.loads((folder / "digests.json").read_text())["one"] == (
        "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"  # printf first | sha256sum
    )
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
def test_damage_is_reported_with_the_folder(name, damage, folder):
    damage(folder / name)
    with pytest.raises(atomic.DamagedError, match=str(folder)):
        atomic.check_folder(folder)


@pytest.mark.parametrize(
    "digests", ["[]", "3", '{"../outside": "0"}', '{"/etc/hostname": "0"}', '{"one": 3}', '{"one": null}', "{"]
)
def test_malformed_digests_are_damage(digests, folder):
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
