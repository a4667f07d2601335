"""A run folder that was damaged or edited: resumed from something that is unchanged, or refused and left as it is.

tests/run/test_faults.py flips bits in every file of such a folder; here are the messages, and what bits cannot show.
"""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from blip_rl.errors import RunError, UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.resume import newest_snapshot
from blip_rl.run.train import resume, train
from blip_rl.storage import provenance
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.atomic import file_digest
from blip_rl.storage.run_folder import RunFolder
from blip_rl.storage.tables import read_scores
from blip_rl.untrusted import machine
from tests.run.broken_off import assert_equal, broken_off, killed_at, resume_run, run_files, small_run

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(small_run(), out=tmp_path_factory.mktemp("whole") / "run", threads=1, quiet=True)


@pytest.fixture(scope="module")
def _interrupted(tmp_path_factory):
    run = broken_off(tmp_path_factory.mktemp("interrupted") / "run", ContinualPPO, "train", 7)
    assert [path.name for path in RunFolder(run).snapshots()] == ["step-000000000512-2", "step-000000000768"]
    return run


@pytest.fixture
def run(_interrupted, tmp_path):
    """A run interrupted in its second task, with two snapshots."""
    return shutil.copytree(_interrupted, tmp_path / "run")


@pytest.fixture(scope="module")
def _early(tmp_path_factory):
    return broken_off(tmp_path_factory.mktemp("early") / "run", ContinualPPO, "train", 3)


@pytest.fixture
def early(_early, tmp_path):
    """A run interrupted in its first task, with one snapshot."""
    return shutil.copytree(_early, tmp_path / "run")


def flip(path, offset=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if offset is None else offset] ^= 1
    path.write_bytes(bytes(data))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def refused(run, error, message, **options):
    """Check that a resume is refused and that nothing is written."""
    before = run_files(run)
    with pytest.raises(error, match=message):
        resume_run(run, **options)
    assert run_files(run) == before


# --- snapshots


@pytest.mark.parametrize("damage", [flip, truncate, os.unlink])
@pytest.mark.parametrize("file", ["agent.safetensors", "games.safetensors", "snapshot.json", "digests.json"])
def test_a_damaged_snapshot_is_skipped_for_the_one_before(file, damage, run):
    damage(RunFolder(run).snapshots()[-1] / file)
    with pytest.warns(UserWarning, match=r"step-000000000768.*resuming from the snapshot before"):
        assert newest_snapshot(RunFolder(run)).steps == 512


def test_a_resume_from_before_a_damaged_snapshot_says_what_that_costs(run, capsys):
    flip(RunFolder(run).snapshots()[-1] / "agent.safetensors")
    with pytest.warns(UserWarning, match="resuming from the snapshot before"), killed_at(ContinualPPO, "train"):
        resume(run, threads=1)
    lost = "at least 256 later steps are lost and will be repeated, because step-000000000768 cannot be used"
    assert f"at step 512: {lost}\n" in capsys.readouterr().out


def test_a_run_without_a_usable_snapshot_is_refused_once_a_task_is_finished(run):
    """Restarting would delete the checkpoints."""
    for path in RunFolder(run).snapshots():
        truncate(path / "agent.safetensors")
    refused(run, RunError, r"none of the 2 snapshots.*step-000000000768.*step-000000000512")
    for path in RunFolder(run).snapshots():
        shutil.rmtree(path)
    refused(run, RunError, "stage-01 but no snapshot to resume from")


def test_a_run_whose_only_snapshot_is_damaged_restarts_in_its_first_task(early, whole):
    (only,) = RunFolder(early).snapshots()
    flip(only / "agent.safetensors")
    with pytest.warns(UserWarning, match=rf"{only.name}.*restarting from the beginning"):
        resume_run(early)
    assert_equal(early, whole)


def test_a_run_that_was_edited_after_its_only_snapshot_is_refused(early):
    """Restarting would delete the user's changes."""
    path = early / "environment.json"
    path.write_text(path.read_text() + "\n")
    refused(early, UserError, "has changed since the run was saved")


def test_a_missing_checkpoint_is_made_again_from_a_snapshot_before_its_end(whole, tmp_path):
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 5)
    assert [path.name for path in RunFolder(run).snapshots()] == ["step-000000000512", "step-000000000512-2"]
    shutil.rmtree(run / "checkpoints" / "stage-01")
    with pytest.warns(UserWarning, match=r"stage-01.*resuming from the snapshot before"):
        resume_run(run)
    assert_equal(run, whole)


# --- files that cannot be read at the moment


def failing_open(monkeypatch, name, error):
    """Let the opening of a file of this name fail with an error of the system."""
    really = os.open

    def opened(path, *more, **options):
        if os.fspath(path).endswith(name):
            raise OSError(error, os.strerror(error), os.fspath(path))
        return really(path, *more, **options)

    monkeypatch.setattr(os, "open", opened)
    plain = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how, **more: os.close(opened(path, 0)) or plain(path, *how, **more))


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize(
    "name", ["snapshot.json", "agent.safetensors", "digests.json", "scores.csv", "policy.safetensors"]
)
def test_a_file_that_cannot_be_read_now_is_no_damage(name, error, run, monkeypatch):
    with monkeypatch.context() as patch:
        failing_open(patch, name, error)
        with pytest.raises(RunError, match=rf"{os.strerror(error)}.*nothing was changed \(try again"):
            newest_snapshot(RunFolder(run), accept_changes=True)
    assert newest_snapshot(RunFolder(run)).steps == 768


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("unable to mmap 1234 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("unable to open file <x> in read-only mode: Too many open files (24)"),
    ],
)
def test_an_only_snapshot_that_does_not_fit_into_memory_now_is_kept(error, early, monkeypatch):
    def failing(path):
        raise error

    monkeypatch.setattr(snapshots, "load_tensors", failing)
    refused(early, RunError, r"(not enough memory|Too many open files).*nothing was changed \(try again")


def test_an_only_snapshot_is_kept_on_a_machine_with_too_little_memory(early, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1000)
    with pytest.raises(RunError, match=r"snapshot .* needs .* of memory .*nothing was changed \(try again"):
        newest_snapshot(RunFolder(early))


def test_snapshots_that_cannot_be_listed_are_not_taken_for_none(early, monkeypatch):
    def failing(path):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", failing)
    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(RunError, match=r"Permission denied.*nothing was changed"):
        newest_snapshot(RunFolder(early))


# --- tables, events and descriptions


def event_or(run, name):
    return next(run.glob("events*")) if name == "events" else run / name


@pytest.mark.parametrize("name", ["scores.csv", "events"])
def test_a_file_that_was_shortened_is_not_appended_to(name, run):
    os.truncate(event_or(run, name), 10)
    refused(run, UserError, r"shorter than when the run was saved.*expected [\d,]+ bytes")
    refused(run, UserError, "shorter than", accept_changes=True)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("scores.csv", b".0,", b".5,"), ("events", b"train", b"TRAIN"), ("environment.json", b"cores", b"seats")],
)
def test_a_file_that_was_edited_is_only_appended_to_if_changes_are_accepted(name, old, new, run, whole):
    path = event_or(run, name)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    refused(run, UserError, rf"{path.name}' has changed since the run was saved.*--accept-changes")
    with pytest.warns(UserWarning, match="resuming although"):
        resume_run(run, accept_changes=True)
    assert {**run_files(run), name: ""} == {**run_files(whole), name: ""}


def with_crlf(path):
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def test_a_table_saved_again_with_other_line_ends_loses_no_row(run, whole):
    with_crlf(run / "scores.csv")
    with_crlf(run / "returns.csv")
    with pytest.warns(UserWarning, match="resuming although"):
        resume_run(run, accept_changes=True)
    for name in ("scores.csv", "returns.csv"):
        assert (run / name).read_bytes().replace(b"\r\n", b"\n") == (whole / name).read_bytes()
    assert len(read_scores(run / "scores.csv")) == len(read_scores(whole / "scores.csv"))


def test_a_kill_after_a_changed_table_was_cut_leaves_a_run_that_can_be_resumed(run, whole):
    """The rest of a table may be shorter than before, though all its rows are there."""
    path = run / "scores.csv"
    path.write_bytes(path.read_bytes().replace(b".0,", b","))
    with_crlf(run / "returns.csv")
    for name in ("forget_snapshots", "forget_stages"):
        with pytest.warns(UserWarning, match="resuming although"), killed_at(RunFolder, name):
            resume_run(run, accept_changes=True)
    with pytest.warns(UserWarning, match="resuming although"):
        resume_run(run, accept_changes=True)
    assert len(read_scores(path)) == len(read_scores(whole / "scores.csv"))


def without_numbers_of_rows(run):
    for path in RunFolder(run).snapshots():
        metadata = json.loads((path / "snapshot.json").read_text())
        for digest in metadata["evidence"]["files"].values():
            del digest["rows"]
        (path / "snapshot.json").write_text(json.dumps(metadata))
        digests = json.loads((path / "digests.json").read_text())
        digests["snapshot.json"] = file_digest(path / "snapshot.json")
        (path / "digests.json").write_text(json.dumps(digests))


def test_a_changed_table_is_refused_where_its_number_of_rows_is_unknown(run, whole):
    without_numbers_of_rows(run)
    original = (run / "scores.csv").read_bytes()
    with_crlf(run / "scores.csv")
    refused(run, UserError, r"scores\.csv' has changed .* earlier version.*restore it", accept_changes=True)
    (run / "scores.csv").write_bytes(original)
    assert_equal(resume_run(run), whole)


def test_a_changed_table_with_fewer_rows_is_refused(run):
    path = run / "scores.csv"
    header, row, *_ = path.read_bytes().splitlines()
    path.write_bytes(header + b"\n" + b"0" * 5000 + row + b"\n")
    refused(run, UserError, r"scores\.csv' has lost rows: expected at least \d+ complete lines", accept_changes=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [(b",after,", b",never,", "cannot be read as scores: line"), (b"cartpole-a", b"cartpole-z", "not one of this run")],
)
def test_scores_that_cannot_be_restored_are_refused_before_anything_is_changed(old, new, message, run):
    path = run / "scores.csv"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.warns(UserWarning, match="resuming although"):
        refused(run, UserError, message, accept_changes=True)


def test_rows_damaged_after_the_older_snapshot_are_written_again(run, whole):
    flip(run / "scores.csv", -1)
    with pytest.warns(UserWarning, match=r"has changed since the run was saved.*resuming from the snapshot before"):
        resume_run(run)
    assert_equal(run, whole)


def test_a_damaged_checkpoint_of_a_finished_task_is_refused(run):
    flip(run / "checkpoints" / "stage-01" / "policy.safetensors")
    refused(run, UserError, r"stage-01.*--accept-changes")


# --- other conditions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"torch": "0.1"}}, r"torch 0\.1 → "),
        ({"versions": "rubbish"}, "torch None → "),
        ({"device": "cuda:7"}, "device cuda:7 → cpu"),
        ({"threads": "many"}, "threads many → 1"),
        ({"machine": "vax"}, "machine vax → "),
        ({"commit": "a" * 40}, "commit a{12} → b{12}-dirty"),
        ({"commit": ["a"]}, r"commit \['a'\] → b{12}-dirty"),
        ({"gpu": "NVIDIA H100"}, "gpu NVIDIA H100 → NVIDIA H200"),
        ({"instructions": "MMX"}, "instructions MMX → AVX2"),
    ],
)
def test_a_run_begun_under_other_conditions_is_refused_with_the_difference(changes, message, run, monkeypatch):
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    really = provenance.environment
    known = {"commit": "b" * 40 + "-dirty", "gpu": "NVIDIA H200", "instructions": "AVX2"}
    monkeypatch.setattr(
        provenance, "environment", lambda device: really(device) | {n: known.get(n) for n in changes if n in known}
    )
    refused(run, UserError, rf"begun under other conditions.*{message}.*--accept-changes")


@pytest.mark.parametrize(("then", "now"), [(None, "b" * 40), ("", "b" * 40), ("a" * 40, None), ("a" * 40, "a" * 40)])
def test_a_commit_or_gpu_that_is_unknown_is_not_compared(then, now, tmp_path, monkeypatch):
    conditions = provenance.environment("cpu")
    (tmp_path / "environment.json").write_text(json.dumps(conditions | {"commit": then, "gpu": then}))
    monkeypatch.setattr(provenance, "environment", lambda device: conditions | {"commit": now, "gpu": now})
    provenance.check_environment(tmp_path, "cpu", accept_changes=False)
    (tmp_path / "environment.json").write_text(
        json.dumps({k: v for k, v in conditions.items() if k not in ("commit", "gpu")})
    )
    provenance.check_environment(tmp_path, "cpu", accept_changes=False)  # of an earlier version


def edit_recipe(run, old, new):
    path = run / "config.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_recipe_that_was_edited_is_refused_with_the_difference(run):
    edit_recipe(run, "value_coefficient = 0.5", "value_coefficient = 0.25")
    refused(run, UserError, r"has changed.*agent\.ppo\.value_coefficient 0\.5 → 0\.25.*--accept-changes")
    resume_run(run, accept_changes=True)
    assert len(RunFolder(run).stages()) == 2


def test_a_recipe_of_another_network_is_refused_even_if_changes_are_accepted(run):
    edit_recipe(run, "hidden = [\n    16,\n    16,\n]", "hidden = [16, 17]")
    refused(run, UserError, "snapshot no longer fits.*size mismatch.*undo the changes", accept_changes=True)


def test_a_recipe_of_another_method_is_refused_even_if_changes_are_accepted(run):
    recipe = run / "config.toml"
    recipe.write_text(recipe.read_text().partition("[agent.method]")[0] + '[agent.method]\nname = "finetune"\n')
    refused(run, UserError, "snapshot no longer fits.*method 'finetune' saves no such tensor", accept_changes=True)


def test_a_recipe_with_fewer_tasks_is_refused_even_if_changes_are_accepted(run):
    first, *tasks = (run / "config.toml").read_text().split("[[tasks]]")
    (run / "config.toml").write_text("[[tasks]]".join([first, tasks[1]]))
    refused(run, UserError, "1 stages: the run is at stage 2", accept_changes=True)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        resume_run(tmp_path)


# --- another process


def test_a_run_folder_has_one_writer(run, whole, tmp_path):
    """Scores of an unfinished run are returned, and written only once the run is finished."""
    before = run_files(run)
    with RunFolder(run).locked():
        with pytest.raises(UserError, match="another process"):
            resume_run(run)
        table = evaluate_run(run, episodes=3).text
    assert "learned cartpole-a" in table
    assert "not written to scores.csv" in table
    assert run_files(run) == before
    assert_equal(resume_run(run), whole)
    assert "not written" not in evaluate_run(run, episodes=3).text
    assert run_files(run)["scores.csv"] != run_files(whole)["scores.csv"]


def test_a_new_run_does_not_take_a_folder_that_another_process_is_about_to_use(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with folder.locked(), pytest.raises(UserError, match="another process"):
        train(small_run(), out=folder.path, threads=1, quiet=True)
