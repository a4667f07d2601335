"""Names of snapshot folders."""

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
