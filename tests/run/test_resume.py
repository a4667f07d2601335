"""Results of an interrupted and resumed run are byte-identical to those of an uninterrupted run."""

import os
import re
import signal

import pytest
from click.testing import CliRunner

from blip_rl import cli
from blip_rl.errors import InterruptedRunError, UserError
from blip_rl.learner.distil import Student
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.packnet import Packnet
from blip_rl.recipes import resolve
from blip_rl.records import SpeedRow, read_rows
from blip_rl.run import consolidation
from blip_rl.run import train as train_module
from blip_rl.run.resume import newest_snapshot
from blip_rl.run.scores import ScoreBook
from blip_rl.run.train import resume, train
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage import atomic
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.groups import GroupedVecEnv
from tests.run.broken_off import (
    ATARI,
    CARTPOLES,
    assert_equal,
    broken_off,
    command,
    curves,
    killed_and_resumed,
    killed_at,
    process,
    resume_run,
    run_files,
    settings,
    small_run,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")
GROUPS = ("compute.environment_groups=2",)
PREVIOUS = ('distil.start="previous"', "distil.rollout_states=200")
PERTURBED = ("method.shrink_and_perturb=0.2", "method.soft_shrink_and_perturb=1e-3")
UPDATE, SAVE = (ContinualPPO, "train"), (snapshots, "save")
FIVE_TIMES = [(*UPDATE, 4, True), (train_module, "save_stage", 1, True), (*UPDATE, 2, True), (*UPDATE, 1, True)]

# Options of a run → the kills that interrupt it, in the order in which its steps reach them.
# A kill: what is called, by its owner and name; at which call of the process; whether the call still does its work.
KILLS = {
    "first task": (
        {"agent": "blip"},
        [
            (TrainingCallback, "_on_training_start", 1, True),
            (*SAVE, 1, False),
            (ContinualPPO, "restart_games", 1, True),
            (*SAVE, 1, True),
            (ContinualPPO, "_update", 5, False),
            (ScoreBook, "_play", 1, True),  # in a periodic evaluation
            (RunFolder, "add_scores", 1, True),  # half of an evaluation's rows are written
            (*SAVE, 1, False),  # after learning
        ],
    ),
    "end of a task": (
        {"agent": "blip"},
        [
            (train_module, "consolidate", 1, False),
            (ScoreBook, "evaluate", 1, True),  # the scores before consolidation
            (train_module, "save_stage", 1, False),
            (train_module, "save_stage", 1, True),  # between two tasks
            (*SAVE, 1, False),  # the second task's first snapshot
            (*UPDATE, 3, True),
            (train_module, "save_stage", 1, False),
            (train_module, "save_stage", 1, True),  # nothing is left to do but removing snapshots
        ],
    ),
    "learned apart": (
        {"agent": "blip-distil"},
        [
            (*SAVE, 3, False),  # the second task's first snapshot
            (*UPDATE, 3, True),
            (ScoreBook, "_play", 2, True),  # in a periodic evaluation of both tasks
            (train_module, "consolidate", 1, False),
            (consolidation, "distil", 1, False),
            (Student, "_update", 7, True),
            (consolidation, "distil", 1, True),
            (train_module, "save_stage", 1, False),
        ],
    ),
    "the previous trunk, and states of rollouts": (
        {"agent": "blip-distil", "overrides": (*settings("blip-distil"), *PREVIOUS)},
        [
            (*UPDATE, 3, True),  # of 4: a rollout is kept, and a snapshot has it
            (consolidation, "distil", 1, False),
            (train_module, "save_stage", 1, True),
            (*UPDATE, 4, False),
        ],
    ),
    "the same task twice": (
        {"agent": "blip", "games": "cartpole-a,cartpole-a"},
        [(train_module, "save_stage", 1, True), (*UPDATE, 1, True)],
    ),
    "packnet": ({"agent": "packnet"}, [(*UPDATE, 4, True), (Packnet, "end_task", 1, True), *FIVE_TIMES[1:]]),
    "clear": ({"agent": "clear"}, FIVE_TIMES),
    "kronecker": ({"agent": "ewc-kronecker"}, FIVE_TIMES),
    "single": ({"agent": "single"}, FIVE_TIMES),
    "shrink and perturb": ({"agent": "finetune-layernorm", "overrides": (*CARTPOLES, *PERTURBED)}, FIVE_TIMES),
    "multitask": (
        {"agent": "multitask"},
        [
            (*SAVE, 1, False),
            (ContinualPPO, "_update", 10, False),  # in the second task's first update
            (ContinualPPO, "restart_games", 1, True),  # of one task, not yet of the other
            (*SAVE, 1, True),
            (RunFolder, "add_scores", 1, True),
            (*UPDATE, 3, True),
            (train_module, "consolidate", 1, False),
            (train_module, "save_stage", 1, True),
        ],
    ),
    "environment groups": (
        {"agent": "blip", "overrides": (*settings("blip"), *GROUPS)},
        [(*UPDATE, 4, False), (*SAVE, 2, True)],
    ),
    "atari": (
        {"agent": "blip", "games": "pong,boxing", "steps": "128", "overrides": settings("blip", ATARI)},
        [(*UPDATE, 4, False), (*UPDATE, 4, False)],
    ),
    "atari groups": (
        {"agent": "blip", "games": "pong,boxing", "steps": "128", "overrides": (*settings("blip", ATARI), *GROUPS)},
        [(*UPDATE, 4, False), (*SAVE, 2, True)],
    ),
    "atari packnet": (
        {"agent": "packnet", "games": "pong,boxing", "steps": "128", "overrides": ATARI},
        [(*UPDATE, 4, False), (*UPDATE, 4, False)],
    ),
    "atari multitask": (
        {"agent": "multitask", "games": "pong,boxing", "steps": "128", "overrides": ATARI},
        [(*UPDATE, 5, False), (*UPDATE, 2, False)],
    ),
}
SLOW = (
    "shrink and perturb",
    "atari groups",
    "atari packnet",
    "atari multitask",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, trained on first use."""
    made = {}

    def run(agent="blip", **options):
        key = (agent, *options.values())
        if key not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[key] = train(small_run(agent, **options), out=out, threads=1, quiet=True)
        return made[key]

    return run


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KILLS])
def test_a_run_killed_again_and_again_equals_an_uninterrupted_run(kind, whole, tmp_path, monkeypatch):
    options, kills = KILLS[kind]
    stepped, step = set(), GroupedVecEnv.step_group_async
    monkeypatch.setattr(
        GroupedVecEnv, "step_group_async", lambda env, group, actions: stepped.add(group) or step(env, group, actions)
    )
    assert_equal(killed_and_resumed(tmp_path / "run", kills, **options), whole(**options))
    assert stepped == ({0, 1} if GROUPS[0] in options.get("overrides", ()) else {0})


def test_a_killed_process_loses_nothing_that_was_saved(whole, tmp_path):
    """A real SIGKILL during learning; what it left half written is removed."""
    run = tmp_path / "run"
    with process(command("blip", run, settings("blip"), "--quiet")) as child:
        wait_for(child, lambda: (run / "checkpoints" / "step-000000000256").is_dir())
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    (run / "checkpoints" / ".blip-rl-0123456789abcdef.tmp").touch()
    half_written = run / "checkpoints" / ".blip-rl-0123456789abcdef.new" / "step-000000000999"
    half_written.mkdir(parents=True)
    (half_written / "agent.safetensors").write_bytes(b"half")
    assert_equal(resume_run(run), whole())
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"stage-01", "stage-02"}


@pytest.mark.parametrize("update", [3, 4])
def test_a_stopped_multitask_run_resumes_from_the_same_update(update, whole, tmp_path, monkeypatch):
    """After 3 updates one task has taken more steps than the other since the environments were reset."""
    updates, train_once, run = [], ContinualPPO.train, tmp_path / "run"

    def interrupted(agent):
        updates.append(agent.num_timesteps)
        if len(updates) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        train_once(agent)

    with monkeypatch.context() as patch:
        patch.setattr(ContinualPPO, "train", interrupted)
        with pytest.raises(InterruptedRunError, match=f"saved at step {128 * update}; resume with"):
            train(small_run("multitask"), out=run, threads=1, quiet=True)
    played = [len(games.actions) for games in newest_snapshot(RunFolder(run)).games]
    assert sum(played) == 32 * (update % 2)
    assert_equal(resume_run(run), whole("multitask"))


def test_multitask_with_tasks_of_different_lengths_keeps_its_schedule(tmp_path):
    recipe = tmp_path / "lengths.toml"
    tasks = [
        f'[[tasks]]\nname = "{name}"\ngame = "CartPole-v1"\nsteps = {steps}\nobservation_mix_seed = {seed}'
        for name, steps, seed in (("short", 200, 1), ("long", 640, 2))
    ]
    recipe.write_text("\n".join(['description = "one task is longer"', *tasks]))
    config = resolve(str(recipe), "multitask", overrides=CARTPOLES)
    whole = train(config, out=tmp_path / "whole", threads=1, quiet=True)
    run = tmp_path / "run"
    with killed_at(*UPDATE, 6):
        train(config, out=run, threads=1, quiet=True)
    assert_equal(resume_run(run), whole)
    assert curves(run)["train/learning_rate"][-1][0] == (2 + 5) * 128


def test_a_run_killed_before_it_has_a_recipe_is_started_again(whole, tmp_path):
    run = broken_off(tmp_path / "run", atomic, "replace_text", 3)
    with pytest.raises(UserError, match="not a run folder"):
        resume_run(run)
    assert_equal(train(small_run(), out=run, threads=1, quiet=True), whole())


def test_a_recipe_without_the_newer_settings_of_ppos_loss_resumes(whole, tmp_path, monkeypatch):
    """As in the runs of earlier versions: the defaults are what these versions did."""
    dump = train_module.dump_run_config
    newer = ("value_loss = ", "value_loss_scale = ", "normalize_advantage = ")

    def older(config):
        return "".join(line for line in dump(config).splitlines(keepends=True) if not line.startswith(newer))

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "dump_run_config", older)
        run = broken_off(tmp_path / "run", *UPDATE, 7, agent="finetune")
    assert "value_loss" not in (run / "config.toml").read_text()
    assert_equal(resume_run(run), whole("finetune"))


# --- messages


@pytest.mark.parametrize(
    ("every", "resumed", "lost"), [("128", "896", ""), ("512", "512", "384"), ("100k", "0", "896")]
)
def test_a_resume_says_how_much_is_lost_and_why(every, resumed, lost, tmp_path, capsys):
    """Killed in the update from step 896 on."""
    run = tmp_path / "run"
    with killed_at(*UPDATE, 8):
        overrides = (*settings("finetune"), f"checkpoint.every_steps={every}")
        train(small_run("finetune", steps="2k", overrides=overrides), out=run, threads=1, quiet=True)
    with killed_at(*UPDATE):
        resume(run, threads=1)
    expected = f"resuming {run} at step {resumed}"
    if lost:
        expected += (
            f": at least {lost} later steps are lost and will be repeated, because the process ended before the next "
            f"snapshot (checkpoint.every_steps = {every.replace('k', ',000')})"
        )
    assert re.search("^resuming .*$", capsys.readouterr().out, re.MULTILINE)[0] == expected


def test_the_command_resumes_and_refuses_a_finished_run(whole, tmp_path):
    run = broken_off(tmp_path / "run", *UPDATE, 7)
    result = CliRunner().invoke(cli.cli, ["train", "--resume", str(run)])
    assert result.exit_code == 0, result.output
    assert f"resuming {run} at step 768" in result.output
    assert_equal(run, whole())
    before = run_files(run)
    result = CliRunner().invoke(cli.cli, ["train", "--resume", str(run)])
    assert result.exit_code == 2
    assert "finished" in result.stderr
    assert run_files(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "run", "--seed", "3"], "--seed with --resume"),
        (["--resume", "run", "--set", "ppo.epochs=1"], "--set with --resume"),
        (["--resume", "run", "--out", "x"], "--out with --resume"),
        (["--accept-changes"], "--resume"),
    ],
)
def test_options_that_do_not_go_with_resume_are_refused(arguments, message, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(cli.cli, ["train", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_process_that_resumes_with_an_evaluation_writes_no_speed_of_0(tmp_path):
    """The snapshot is saved before the evaluation at the same step: nothing has been timed yet."""
    overrides = (*settings("finetune"), "evaluation.every_steps=256")
    run = broken_off(tmp_path / "run", *SAVE, 1, True, agent="finetune", overrides=overrides)
    resume_run(run)
    speeds = [row.steps_per_second for _, row in read_rows(RunFolder(run).speed, SpeedRow)]
    assert len(speeds) >= 2
    assert all(speed > 0 for speed in speeds)
