"""Archives of runs: the leaderboard reads them like run folders."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.reporting.report_runs import make_run

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
COMMAND = "blip-rl train --games kungfu,boxing,krull --out '/home/me/my runs/a'"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.fixture
def study(tmp_path):
    """Two finished runs and one that is not."""
    for seed in (0, 1):
        make_run(tmp_path / "study" / f"blip-seed{seed}", seed=seed, command=COMMAND)
    make_run(tmp_path / "study" / "blip-seed2", seed=2, stages=1)
    return tmp_path / "study"


def test_a_leaderboard_of_an_archive_is_that_of_the_folders(study, tmp_path, scripts):
    from archive_runs import add_runs
    from leaderboard import leaderboard

    archive = tmp_path / "kept" / "runs.tar.xz"
    added, left_out = add_runs(archive, [study])
    assert added == 2
    assert [line.rpartition(": ")[2] for line in left_out] == ["not finished"]
    assert leaderboard([archive])[0] == leaderboard([study])[0]


def test_an_archive_has_no_paths_and_does_not_depend_on_the_order(study, tmp_path, scripts):
    from _run_archive import read_archive
    from archive_runs import add_runs

    one, other = tmp_path / "one.tar.xz", tmp_path / "other.tar.xz"
    add_runs(one, [study])
    for run in ("blip-seed1", "blip-seed0", "blip-seed1"):
        add_runs(other, [study / run])
    assert one.read_bytes() == other.read_bytes()
    runs = read_archive(one)
    assert list(runs) == ["study/blip-seed0", "study/blip-seed1"]
    assert runs["study/blip-seed0"]["command.txt"] == b"blip-rl train --games kungfu,boxing,krull\n"


def test_a_run_is_not_replaced_by_another_one_of_its_name(study, tmp_path, scripts):
    from archive_runs import add_runs

    from blip_rl.errors import UserError

    archive = tmp_path / "runs.tar.xz"
    add_runs(archive, [study])
    before = archive.read_bytes()
    with (study / "blip-seed0" / "command.txt").open("a", encoding="utf-8") as file:
        file.write("--steps 5")
    with pytest.raises(UserError, match="study/blip-seed0 with other tables"):
        add_runs(archive, [study])
    assert archive.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a/b/run.py", "not expected"),
        ("../b/config.toml", "not expected"),
        ("a/../config.toml", "not expected"),
        ("b/config.toml", "not expected"),
        (None, "cannot be read"),
        ("damaged", "cannot be read"),
    ],
)
def test_other_files_are_refused(name, problem, tmp_path, scripts, capsys):
    import leaderboard

    archive = tmp_path / "runs.tar.xz"
    if name is None:
        archive.write_bytes(b"no archive")
    elif name == "damaged":
        with tarfile.open(archive, "w:xz") as tar:
            entry = tarfile.TarInfo("a/b/config.toml")
            entry.size = 4096
            tar.addfile(entry, io.BytesIO(bytes(range(256)) * 16))
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 255
        archive.write_bytes(content)
    else:
        with tarfile.open(archive, "w:xz") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(SystemExit) as stopped:
        leaderboard.main([str(archive), "--out", str(tmp_path / "out.md")])
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out.md").exists()


def test_a_run_that_is_twice_there_is_named_as_it_was_given_and_counted_once(study, tmp_path, scripts):
    from archive_runs import add_runs
    from leaderboard import leaderboard

    archive = tmp_path / "runs.tar.xz"
    add_runs(archive, [study])
    text, left_out = leaderboard([study / "blip-seed0", archive])
    assert "| blip | 2 |" in text
    assert len(left_out) == 1
    assert left_out[0].startswith((f"'{archive}': study/blip-seed0: ", f"'{study / 'blip-seed0'}': "))


@pytest.mark.parametrize("problem", ["none is finished", "quote"])
def test_runs_that_cannot_be_archived_are_refused_and_no_archive_is_made(problem, study, tmp_path, scripts):
    from archive_runs import add_runs

    from blip_rl.errors import UserError

    if problem == "quote":
        (study / "blip-seed0" / "command.txt").write_text("blip-rl 'train")
    with pytest.raises(
        UserError, match="no finished run" if problem != "quote" else r"command\.txt.* is no command line"
    ):
        add_runs(tmp_path / "runs.tar.xz", [study / "blip-seed2"] if problem != "quote" else [study])
    assert not (tmp_path / "runs.tar.xz").exists()
