"""Truncating a run's tables to their size at a snapshot."""

from blip_rl.storage import integrity


def test_truncating_leaves_hard_linked_copies_unchanged(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    copy.mkdir()
    for name in ("scores.csv", "events.out.tfevents.1"):
        (run / name).write_text("begin")
        (copy / name).hardlink_to(run / name)
    then = integrity.digest_files(run, [])
    for name in ("scores.csv", "events.out.tfevents.1"):
        with (run / name).open("a") as file:
            file.write(" and more")
    integrity.truncate(run, then)
    for name in ("scores.csv", "events.out.tfevents.1"):
        assert (run / name).read_text() == "begin"
        assert (copy / name).read_text() == "begin and more"
        assert (run / name).stat().st_nlink == 1
