"""Names of snapshot folders, and the step counter read by a resume."""

import pytest

from blip_rl.storage import snapshot_names


def make(folder, *names):
    for name in names:
        (folder / name).mkdir()


def test_snapshots_are_in_the_order_in_which_they_were_written(tmp_path):
    names = ["step-000000000256", "step-000000000512", *(f"step-000000000512-{n}" for n in range(2, 12)), "step-513"]
    make(tmp_path, *reversed(names))
    assert [path.name for path in snapshot_names.snapshot_folders(tmp_path)] == names
    assert [snapshot_names.snapshot_steps(path) for path in snapshot_names.snapshot_folders(tmp_path)] == [
        256,
        *[512] * 11,
        513,
    ]


def test_other_entries_are_not_snapshots(tmp_path):
    make(
        tmp_path, "step-", "step-x", "step-5-", "step-5-x", "step-٣", f"step-{'9' * 19}", ".step-5.writing", "stage-01"
    )
    (tmp_path / "step-6").touch()
    (tmp_path / "step-7").symlink_to("stage-01")
    assert snapshot_names.snapshot_folders(tmp_path) == []


def test_a_new_snapshot_has_an_unused_name(tmp_path):
    names = []
    for steps in (256, 512, 512, 512):
        path = snapshot_names.new_snapshot_folder(tmp_path, steps)
        names.append(path.name)
        path.mkdir()
    assert names == ["step-000000000256", "step-000000000512", "step-000000000512-2", "step-000000000512-3"]
    (tmp_path / "step-000000000512").rmdir()  # the oldest goes; its name would come before the others
    assert snapshot_names.new_snapshot_folder(tmp_path, 512).name == "step-000000000512-4"


def test_the_step_counter_is_stored_until_it_is_removed(tmp_path):
    assert snapshot_names.noted_steps(tmp_path) == 0
    for steps in (12, 345):
        snapshot_names.note_steps(tmp_path, steps)
        assert snapshot_names.noted_steps(tmp_path) == steps
    snapshot_names.forget_steps(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"x", b"-5", b"9" * 19, "٣".encode(), b"\xff"])
def test_an_unreadable_step_counter_is_zero(text, tmp_path):
    (tmp_path / ".steps").write_bytes(text)
    assert snapshot_names.noted_steps(tmp_path) == 0


def test_the_step_counter_is_not_written_through_a_link(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / ".steps").symlink_to("other")
    snapshot_names.note_steps(tmp_path, 7)
    assert snapshot_names.noted_steps(tmp_path) == 7
    assert (tmp_path / "other").read_text() == "other"
