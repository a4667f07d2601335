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


def test_a_table_with_a_blank_line_is_cut_at_the_same_row(tmp_path):
    """Counted in one place and not in the other, a row written after the snapshot would stay."""
    table = tmp_path / "scores.csv"
    table.write_bytes(b"a,b\n\n1,2\n3,4\n")
    then = integrity.digest_files(tmp_path, [])
    assert then.files["scores.csv"].rows == 3
    table.write_bytes(b"a,b\r\n\r\n1,2\r\n3,4\r\n5,6\r\n7,8\r\n")
    integrity.truncate(tmp_path, then)
    assert table.read_bytes() == b"a,b\r\n\r\n1,2\r\n3,4\r\n"
