"""Results of an interrupted and resumed run are byte-identical to those of an uninterrupted run."""

import errno
import json
import os
import re
import shutil
import signal

import pytest
from click.testing import CliRunner

from blip_rl import cli
from blip_rl.errors import RunError, UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.distil import Student
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import load_method
from blip_rl.run import consolidation
from blip_rl.run import train as train_module
from blip_rl.run.resume import newest_snapshot
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import resume, train
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage import atomic, checkpoint
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import (
    ATARI,
    assert_equal,
    broken_off,
    command,
    curves,
    killed_at,
    process,
    resume_run,
    run_files,
    settings,
    small_run,
    wait_for,
)

AGENTS = ("blip", "blip-distil", "packnet", "clear", "single", "finetune")


pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, trained on first use."""
    made = {}

    def run(agent, **options):
        key = (agent, *options.values())
        if key not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[key] = train(small_run(agent, **options), out=out, threads=1, quiet=True)
        return made[key]

    return run


@pytest.fixture(scope="module")
def left_in_the_middle(tmp_path_factory):
    """A run interrupted in its second task, with two snapshots."""
    out = tmp_path_factory.mktemp("left") / "run"
    with killed_at(ContinualPPO, "train", 7):
        train(small_run(), out=out, threads=1, quiet=True)
    assert [path.name for path in RunFolder(out).snapshots()] == ["step-000000000512-2", "step-000000000768"]
    return out


@pytest.fixture
def left(left_in_the_middle, tmp_path):
    return shutil.copytree(left_in_the_middle, tmp_path / "run")


# --- where a run can end

# (what ends it, its name, at which call, whether the call still does its work)
POINTS = {
    "before its first step": (TrainingCallback, "_on_training_start", 1, True),
    "before the first snapshot": (snapshots, "save", 1, False),
    "right after the first snapshot": (snapshots, "save", 1, True),
    "in an update": (ContinualPPO, "_update", 21, False),
    "after the games have started anew": (ContinualPPO, "restart_games", 1, True),
    "in a periodic evaluation": (ScoreBook, "_play", 2, True),
    "with half of an evaluation's rows written": (RunFolder, "add_scores", 6, True),
    "after learning, before it is saved": (snapshots, "save", 2, False),
    "after learning": (train_module, "consolidate", 1, False),
    "after the first scores of the end": (ScoreBook, "evaluate", 2, True),
    "after consolidation": (train_module, "save_stage", 1, False),
    "between two stages": (train_module, "save_stage", 1, True),
    "at the second task's first snapshot": (snapshots, "save", 3, False),
    "in the second task": (ContinualPPO, "train", 7, True),
    "before the last stage is saved": (train_module, "save_stage", 2, False),
    "after the last stage": (train_module, "save_stage", 2, True),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_once_equals_an_uninterrupted_run(point, whole, tmp_path):
    run = broken_off(tmp_path / "run", *POINTS[point])
    assert run_files(run) != run_files(whole("blip"))
    assert_equal(resume_run(run), whole("blip"))


# Where a run whose tasks are learned apart can end.
APART_POINTS = {
    "at its first snapshot": (snapshots, "save", 3, False),
    "in the middle": (ContinualPPO, "train", 7, True),
    "in a periodic evaluation of both tasks": (ScoreBook, "_play", 7, True),
    "when it is learned": (train_module, "consolidate", 2, False),
    "before it is distilled": (consolidation, "distil", 2, False),
    "while the first is distilled": (Student, "_update", 7, True),
    "while it is distilled": (Student, "_update", 17, True),
    "after it is distilled": (consolidation, "distil", 2, True),
    "before its stage is saved": (train_module, "save_stage", 2, False),
}
SLOW_POINTS = {"at its first snapshot", "in the middle", "before it is distilled", "before its stage is saved"}


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[pytest.mark.slow] * (point in SLOW_POINTS)) for point in APART_POINTS]
)
def test_a_task_learned_apart_is_resumed_from_any_point(point, whole, tmp_path):
    run = broken_off(tmp_path / "run", *APART_POINTS[point], agent="blip-distil")
    assert run_files(run) != run_files(whole("blip-distil"))
    assert_equal(resume_run(run), whole("blip-distil"))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_killed_five_times_shows_no_seam(agent, whole, tmp_path):
    """During and at the end of the first task, between the tasks, and before and after PackNet's pruning."""
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 4, agent=agent)
    method = load_method(small_run(agent).agent.method["name"])
    later = [(method, "end_task", 1, True), (train_module, "save_stage", 1, True), (ContinualPPO, "train", 2, True)]
    for point in [*later, (ContinualPPO, "train", 2, True)]:
        with killed_at(*point):
            resume_run(run)
    assert_equal(resume_run(run), whole(agent))
    steps = [step for step, _ in curves(run)["train/learning_rate"]]
    second = 576 if agent == "blip-distil" else 512  # the first task and the steps that distil it
    assert steps == [*range(128, 513, 128), *range(second + 128, second + 513, 128)]


@pytest.mark.parametrize("agent", ["blip", pytest.param("packnet", marks=pytest.mark.slow)])
def test_an_atari_run_killed_in_the_middle_of_its_games(agent, whole, tmp_path):
    options = {"games": "pong,boxing", "steps": "128", "overrides": settings(agent, ATARI)}
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 4, agent=agent, **options)
    with killed_at(ContinualPPO, "train", 4):
        resume_run(run)
    assert_equal(resume_run(run), whole(agent, **options))


def test_a_real_kill_leaves_nothing_that_stays(whole, tmp_path):
    """SIGKILL during learning; this process resumes."""
    run = tmp_path / "run"
    with process(command("blip", run, settings("blip"), "--quiet")) as child:
        wait_for(child, lambda: (run / "checkpoints" / "step-000000000256").is_dir())
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    (run / "checkpoints" / ".blip-rl-0123456789abcdef.tmp").touch()
    half_written = run / "checkpoints" / ".blip-rl-0123456789abcdef.new" / "step-000000000999"
    half_written.mkdir(parents=True)
    (half_written / "agent.safetensors").write_bytes(b"half")
    assert_equal(resume_run(run), whole("blip"))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"stage-01", "stage-02"}


def test_a_run_killed_before_it_has_a_recipe_is_started_again(whole, tmp_path):
    run = broken_off(tmp_path / "run", atomic, "replace_text", 3)
    with pytest.raises(UserError, match="not a run folder"):
        resume_run(run)
    assert_equal(train(small_run(), out=run, threads=1, quiet=True), whole("blip"))


def test_of_two_runs_in_one_folder_one_is_refused(tmp_path):
    """The second process starts before, and again after, the first has written its recipe."""
    run, folder = tmp_path / "run", RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with folder.locked(), pytest.raises(UserError, match="another process"):
        train(small_run(), out=run, threads=1, quiet=True)
    folder.create("[agent]", "cpu", {})
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(UserError, match="exists"):
        RunFolder(run).create("", "cpu", {})
    assert folder.recipe() == "[agent]"
    assert sorted(path.name for path in run.iterdir()) == before


def said_by_a_resume(run, capsys):
    with killed_at(ContinualPPO, "train"):
        resume(run, threads=1)
    return re.search("^resuming .*$", capsys.readouterr().out, re.MULTILINE)[0]


def test_a_resume_that_loses_nothing_says_where_it_begins(left, capsys):
    """Killed in the update that follows a snapshot."""
    assert said_by_a_resume(left, capsys) == f"resuming {left} at step 768"


@pytest.mark.parametrize(("every", "resumed", "lost"), [("512", "512", "384"), ("100k", "0", "896")])
def test_a_resume_says_how_much_is_lost_and_why(every, resumed, lost, tmp_path, capsys):
    """Killed in the update from step 896 on."""
    with killed_at(ContinualPPO, "train", 8):
        overrides = (*settings("blip"), f"checkpoint.every_steps={every}")
        train(small_run(steps="2k", overrides=overrides), out=tmp_path / "run", threads=1, quiet=True)
    assert said_by_a_resume(tmp_path / "run", capsys) == (
        f"resuming {tmp_path / 'run'} at step {resumed}: at least {lost} steps after it are lost and repeated, "
        f"because the process ended before the next snapshot (checkpoint.every_steps = {every.replace('k', ',000')})"
    )


def test_a_resume_from_before_a_damaged_snapshot_says_what_that_costs(left, capsys):
    flip(RunFolder(left).snapshots()[-1] / "agent.safetensors")
    with pytest.warns(UserWarning, match="resuming from the snapshot before"):
        said = said_by_a_resume(left, capsys)
    assert said.endswith(
        "at step 512: at least 256 steps after it are lost and repeated, because step-000000000768 cannot be used"
    )


def test_a_run_with_stages_but_no_snapshot_is_left_alone(left):
    """Restarting would delete the checkpoints."""
    for path in RunFolder(left).snapshots():
        shutil.rmtree(path)
    before = run_files(left)
    with pytest.raises(RunError, match="stage-01 but no snapshot to resume from"):
        resume_run(left)
    assert run_files(left) == before


def test_the_command_resumes(left, whole):
    result = CliRunner().invoke(cli.cli, ["train", "--resume", str(left)])
    assert result.exit_code == 0, result.output
    assert "resuming" in result.output
    assert "at step 768" in result.output
    assert_equal(left, whole("blip"))


# --- damage


def flip_at(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def flip(path):
    flip_at(path, path.stat().st_size // 2)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {"a bit flipped": flip, "cut off": cut, "emptied": lambda path: os.truncate(path, 0), "gone": os.unlink}
FILES = ("agent.safetensors", "method.safetensors", "games.safetensors", "snapshot.json", "digests.json")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_snapshot_gives_way_to_the_one_before(file, damage, left):
    folder = RunFolder(left)
    DAMAGE[damage](folder.snapshots()[-1] / file)
    with pytest.warns(UserWarning, match=r"step-000000000768.*resuming from the snapshot before"):
        assert newest_snapshot(folder).steps == 512


def test_a_run_resumes_from_the_snapshot_before_a_damaged_one(left, whole):
    flip(RunFolder(left).snapshots()[-1] / "agent.safetensors")
    with pytest.warns(UserWarning, match="resuming from the snapshot before"):
        resume_run(left)
    assert_equal(left, whole("blip"))


def test_nothing_is_made_up_where_all_snapshots_are_damaged(left):
    for path in RunFolder(left).snapshots():
        cut(path / "agent.safetensors")
    before = run_files(left)
    with pytest.raises(RunError, match=r"none of the 2 snapshots.*step-000000000768.*step-000000000512"):
        resume_run(left)
    assert run_files(left) == before


def test_a_run_whose_only_snapshot_is_damaged_begins_anew(whole, tmp_path):
    """Two snapshots are kept: if there is only one and no finished task, the run restarts from the beginning."""
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 3)
    (only,) = RunFolder(run).snapshots()
    flip(only / "agent.safetensors")
    with pytest.warns(UserWarning, match=rf"{only.name}.*restarting from the beginning"):
        resume_run(run)
    assert_equal(run, whole("blip"))


def test_a_run_whose_only_snapshot_was_added_to_by_hand_is_left_alone(tmp_path):
    """Restarting would delete the user's changes."""
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 3)
    path = run / "environment.json"
    path.write_text(path.read_text() + "\n")
    before = run_files(run)
    with pytest.raises(UserError, match="has changed since the run was saved"):
        resume_run(run)
    assert run_files(run) == before


def evidence_file(run, name):
    return next(run.glob("events*")) if name == "events" else run / name


EVIDENCE = ("scores.csv", "plasticity.csv", "events")


@pytest.mark.parametrize("name", EVIDENCE)
def test_evidence_that_someone_shortened_is_not_added_to(name, left):
    os.truncate(evidence_file(left, name), 10)
    before = run_files(left)
    with pytest.raises(UserError, match=r"shorter than when the run was saved.*expected [\d,]+ bytes"):
        resume_run(left)
    with pytest.raises(UserError, match="shorter than"):
        resume_run(left, accept_changes=True)
    assert run_files(left) == before


EDITS = {  # as long as before, and still a table
    "scores.csv": (b".0,", b".5,"),
    "plasticity.csv": (b"0.", b"1."),
    "events": (b"train", b"TRAIN"),
    "command.txt": (b"p", b"q"),
    "environment.json": (b"cores", b"seats"),
}


@pytest.mark.parametrize("name", EDITS)
def test_evidence_that_was_changed_in_place_is_not_added_to(name, left, whole):
    path = evidence_file(left, name)
    assert EDITS[name][0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*EDITS[name], 1))
    before = run_files(left)
    with pytest.raises(UserError, match=rf"{path.name}' has changed since the run was saved.*--accept-changes"):
        resume_run(left)
    assert run_files(left) == before
    with pytest.warns(UserWarning, match="resuming although"):
        resume_run(left, accept_changes=True)
    assert {**run_files(left), name: ""} == {**run_files(whole("blip")), name: ""}


@pytest.mark.parametrize("name", EVIDENCE)
def test_what_was_written_between_the_two_snapshots_is_written_again(name, left, whole):
    newer, older = (snapshots.load(path).run_files.files for path in RunFolder(left).snapshots()[::-1])
    path = evidence_file(left, name)
    if newer[path.name].size == older[path.name].size:
        pytest.skip("nothing was written in between")
    flip_at(path, newer[path.name].size - 1)
    with pytest.warns(UserWarning, match=r"has changed since the run was saved.*resuming from the snapshot before"):
        resume_run(left)
    assert_equal(left, whole("blip"))


@pytest.mark.parametrize("file", ["policy.safetensors", "method.safetensors", "stage.json", "digests.json"])
def test_a_damaged_checkpoint_of_an_earlier_stage_is_told_of(file, left):
    flip(left / "checkpoints" / "stage-01" / file)
    before = run_files(left)
    with pytest.raises(UserError, match=r"stage-01.*--accept-changes"):
        resume_run(left)
    assert run_files(left) == before


def test_an_earlier_stage_is_made_again_where_there_is_a_snapshot_before_its_end(whole, tmp_path):
    run = broken_off(tmp_path / "run", ContinualPPO, "train", 5)
    assert [path.name for path in RunFolder(run).snapshots()] == ["step-000000000512", "step-000000000512-2"]
    shutil.rmtree(run / "checkpoints" / "stage-01")
    with pytest.warns(UserWarning, match=r"stage-01.*resuming from the snapshot before"):
        resume_run(run)
    assert_equal(run, whole("blip"))


# --- what is refused


def test_a_finished_run_is_not_resumed(whole):
    before = run_files(whole("blip"))
    with pytest.raises(UserError, match="finished"):
        resume_run(whole("blip"))
    assert run_files(whole("blip")) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        resume_run(tmp_path)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--seed", "3"], "--seed with --resume"),
        (["--games", "pong"], "--games with --resume"),
        (["--set", "ppo.epochs=1"], "--set with --resume"),
        (["--out", "x"], "--out with --resume"),
    ],
)
def test_a_run_resumes_with_its_own_recipe(options, wanted, left):
    result = CliRunner().invoke(cli.cli, ["train", "--resume", str(left), *options])
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_changes_cannot_be_accepted_in_a_new_run():
    result = CliRunner().invoke(cli.cli, ["train", "--accept-changes"])
    assert result.exit_code == 2
    assert "--resume" in result.stderr


def test_a_second_process_is_refused(left):
    with RunFolder(left).locked(), pytest.raises(UserError, match="another process"):
        resume_run(left)


def change_environment(run, **changes):
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"versions": {"torch": "0.1"}}, r"torch 0\.1 → "),
        ({"versions": "rubbish"}, "torch None → "),
        ({"device": "cuda:7"}, "device cuda:7 → cpu"),
        ({"threads": 3}, "threads 3 → 1"),
        ({"threads": "many"}, "threads many → 1"),
        ({"machine": "vax"}, "machine vax → "),
    ],
)
def test_other_conditions_are_refused_with_the_difference(changes, wanted, left):
    change_environment(left, **changes)
    before = run_files(left)
    with pytest.raises(UserError, match=rf"begun under other conditions.*{wanted}.*--accept-changes"):
        resume_run(left)
    assert run_files(left) == before


def test_other_conditions_can_be_accepted(left, whole):
    change_environment(left, versions={"torch": "0.1"})
    with pytest.warns(
        UserWarning, match=r"resuming although .*environment\.json' has changed since the run was saved$"
    ):
        resume_run(left, accept_changes=True)
    assert_equal(left, whole("blip"))


def edit_recipe(run, old, new):
    path = run / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_recipe_that_someone_changed_is_refused_with_the_difference(left):
    edit_recipe(left, "value_coefficient = 0.5", "value_coefficient = 0.25")
    before = run_files(left)
    with pytest.raises(UserError, match=r"has changed.*agent\.ppo\.value_coefficient 0\.5 → 0\.25.*--accept-changes"):
        resume_run(left)
    assert run_files(left) == before
    resume_run(left, accept_changes=True)
    assert len(RunFolder(left).stages()) == 2


def test_a_recipe_of_another_network_is_refused_even_when_changes_are_accepted(left):
    edit_recipe(left, "hidden = [\n    16,\n    16,\n]", "hidden = [16, 17]")
    with pytest.raises(UserError, match="does not fit"):
        resume_run(left, accept_changes=True)


def test_a_run_without_the_settings_of_ppos_loss_resumes(whole, tmp_path, monkeypatch):
    dump = train_module.dump_run_config
    new = ("value_loss = ", "value_loss_scale = ", "normalize_advantage = ")

    def older(config):
        lines = dump(config).splitlines(keepends=True)
        left = [line for line in lines if not line.startswith(new)]
        assert len(left) == len(lines) - len(new)
        return "".join(left)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "dump_run_config", older)
        run = broken_off(tmp_path / "run", ContinualPPO, "train", 7, agent="finetune")
    assert "value_loss" not in (run / "config.toml").read_text()
    assert_equal(resume_run(run), whole("finetune"))


# --- a disk that is full


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (checkpoint, "save_file", checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")),
        (atomic, "file_digest", OSError(errno.ENOSPC, "No space left on device")),
        (atomic, "flush", OSError(errno.EIO, "No space left on device")),
    ],
)
def test_a_full_disk_stops_the_run_and_takes_nothing_saved_with_it(module, name, error, whole, tmp_path, monkeypatch):
    run, saves = tmp_path / "run", []

    def full(*args):
        if len(RunFolder(run).snapshots()) < 2:
            return saves.append(name) or work(*args)
        raise error

    work = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(RunError, match=r"No space left on device.*saved at step 512; resume with: .*--resume"):
            train(small_run(), out=run, threads=1, quiet=True)
    assert saves
    assert [path.name for path in RunFolder(run).snapshots()] == ["step-000000000256", "step-000000000512"]
    assert_equal(resume_run(run), whole("blip"))


def test_a_limit_of_the_system_is_met_like_a_full_disk(whole, tmp_path):
    """Real failing writes: from the first snapshot on, RLIMIT_FSIZE is one kilobyte."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("no prlimit here")
    run = tmp_path / "run"
    with process(command("blip", run, settings("blip"), "--quiet")) as child:
        wait_for(child, lambda: (run / "checkpoints" / "step-000000000256").is_dir())
        _, most = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (1_000, most))
        _, stderr = child.communicate()
        assert child.returncode == 1, stderr
    assert "File too large" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert_equal(resume_run(run), whole("blip"))


# --- scoring again


def test_scoring_an_unfinished_run_leaves_its_table_to_the_training(left, whole):
    before = run_files(left)
    table = evaluate_run(left, episodes=3)
    assert "learned cartpole-a" in table
    assert "not written to scores.csv" in table
    assert run_files(left) == before
    with RunFolder(left).locked():
        assert "not written to scores.csv" in evaluate_run(left, episodes=1)
    assert_equal(resume_run(left), whole("blip"))
    assert "not written" not in evaluate_run(left, episodes=3)
    assert run_files(left)["scores.csv"] != run_files(whole("blip"))["scores.csv"]
