"""``blip-rl sweep``: options, bad input, and what ``--dry-run`` prints; nothing is trained here."""

import re
import shutil

import pytest
from click.testing import CliRunner

import blip_rl as br
from blip_rl.api import sweeping
from blip_rl.cli import cli
from blip_rl.errors import UserError
from blip_rl.sweeps import run as sweep_run
from tests.small_runs import SMALL
from tests.sweeps.small_sweeps import with_engine

SWEEP = ["--agents", "finetune", "--games", "cartpole4", "--seeds", "0-1", "--out", "x"]
PLAN = """
agents = ["ewc", "finetune"]
sequences = ["cartpole4"]
seeds = "0-2"
[agent.ewc.grid]
"method.strength" = [1, 10]
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(*arguments):
    return CliRunner().invoke(cli, ["sweep", *arguments])


def changed(option, value):
    return [value if before == option else word for before, word in zip(["", *SWEEP], SWEEP, strict=False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a plan, such as sweep.toml, or --agents"),
        (SWEEP[:-2], "--out is missing"),
        (SWEEP[2:4], "--out is missing"),
        (changed("--agents", "finetne"), "unknown agent 'finetne': did you mean finetune?"),
        (changed("--seeds", ""), "--seeds '': expected seeds such as 0-9"),
        (changed("--seeds", "5-2"), "--seeds '5-2': the range 5-2 runs backwards: expected 2-5"),
        ([*SWEEP, "--tuning-seeds", "1"], "seed 1 is in seeds and in tuning_seeds"),
        ([*SWEEP, "--grid", "method.strengh=1,2"], "grid method.strengh=1: unknown key"),
        ([*SWEEP, "--grid", "strength"], "--grid 'strength': expected section.key=value"),
        ([*SWEEP, "--set", "ppo.gamma"], "--set 'ppo.gamma': expected section.key=value"),
        (
            [*SWEEP, "--set", "ppo.gamma=1", "--grid", "ppo.gamma=1,2"],
            "--set ppo.gamma with --grid ppo.gamma: expected",
        ),
        ([*SWEEP, "--jobs", "0"], "--jobs 0: expected a whole number from 1 to 1,024"),
        ([*SWEEP, "--jobs", "1000"], "--jobs 1000: a run needs at least"),
        ([*SWEEP, "--device", "cuda:7"], "--device 'cuda:7': expected auto, cpu or cuda, because"),
        ([*SWEEP, "--retries", "-1"], "--retries -1: expected a whole number from 0 to 1,000"),
        ([*SWEEP, "--device", "cpu", "--gpus-per-run", "-1"], "--gpus-per-run -1: expected a number of more than 0"),
        ([*SWEEP, "--slurm-option=--mem=1G"], "--slurm-option --mem=1G with --engine local: only Slurm takes it"),
        ([*SWEEP, "--slurm-option=--mem=1G", "--dry-run"], "--slurm-option --mem=1G with --engine local: only Slurm"),
        ([*SWEEP, "--engine", "slurm", "--gpus-per-run", "1"], "--gpus-per-run 1 with --engine slurm: each run gets"),
        ([*SWEEP, "--engine", "slurm", "--retries", "2"], "--retries 2 with --engine slurm: Slurm itself requeues"),
        ([*SWEEP, "--track"], "--track: unknown option of cli sweep, but one of train"),
        ([*SWEEP, "--track", "wandb"], "--track: unknown option of cli sweep, but one of train"),
        (["nowhere.toml"], "'nowhere.toml' cannot be read: No such file"),
        (changed("--out", "taken"), "'taken' is not the folder of a sweep"),
    ],
)
def test_bad_input_is_one_message_with_exit_code_2_and_nothing_is_written(arguments, message, elsewhere):
    (elsewhere / "taken").mkdir()
    (elsewhere / "taken" / "file").touch()
    before = sorted(elsewhere.rglob("*"))
    result = sweep(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert sorted(elsewhere.rglob("*")) == before


def test_a_dry_run_of_a_plan_lists_settings_and_estimates_and_writes_nothing(elsewhere):
    (elsewhere / "tuning.toml").write_text(PLAN)
    result = sweep("tuning.toml", "--seeds", "0-4", "--jobs", "2", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1] == "sweep sweeps/tuning: 15 runs, 15 of them not finished"
    assert lines[3].split()[:5] == ["cartpole4-ewc-strength=1", "5", "5", "483,328", "unknown"]
    assert lines[-2] == "time  unknown: no similar run in 'sweeps/tuning', beside it or in 'runs'"
    assert [path.name for path in elsewhere.iterdir()] == ["tuning.toml"]


def test_a_dry_run_in_the_folder_of_another_sweep_is_timed_by_its_runs(elsewhere, finished_run):
    shutil.copytree(finished_run, elsewhere / "rehearsal" / "blip-0")
    settings = [word for setting in (*SMALL, "method.fisher_samples=64") for word in ("--set", setting)]
    games = ["--games", "cartpole-a,cartpole-b", "--agents", "blip", "--seeds", "0-1", "--threads", "1", "--jobs", "1"]
    result = sweep(*games, *settings, "--out", "rehearsal/all", "--dry-run")
    assert result.exit_code == 0, result.output
    assert re.search(r"^time  about \S.* of training with 1 runs at a time", result.stdout, re.MULTILINE)


def test_options_replace_the_values_of_a_plan(elsewhere, monkeypatch):
    engines = []
    monkeypatch.setattr(sweep_run, "Schedule", with_engine(engines))
    (elsewhere / "tuning.toml").write_text(PLAN)
    result = sweep("tuning.toml", "--agents", "ewc", "--seeds", "7", "--grid", "ppo.discount=0.9,0.99", "--out", "y")
    assert result.exit_code == 0, result.output
    settings = [f"discount={discount}-strength={strength}" for discount in (0.9, 0.99) for strength in (1, 10)]
    assert engines[0].submitted == [f"cartpole4-ewc-{setting}-seed7" for setting in settings]
    assert "4 of 4 runs finished" in result.stdout
    assert result.stdout.splitlines()[-1] == "compare  blip-rl report y"


def test_options_of_slurm_are_refused_for_other_engines_from_python_too(elsewhere):
    plan = {"agents": ["finetune"], "sequences": ["cartpole4"], "seeds": "0"}
    with pytest.raises(UserError, match=r"slurm_options = .*with the engine 'local': only 'slurm' has some"):
        br.sweep(plan, out="x", slurm_options=["--mem=1G"])
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("option", [{"retries": 1}, {"gpus_per_run": 0.5}])
def test_options_that_slurm_does_not_take_are_refused_from_python_too(option, elsewhere):
    plan = {"agents": ["finetune"], "sequences": ["cartpole4"], "seeds": "0"}
    with pytest.raises(UserError, match=f"{next(iter(option))} = .* with the engine 'slurm'"):
        br.sweep(plan, out="x", engine="slurm", **option)
    assert list(elsewhere.iterdir()) == []


def test_a_plan_for_slurm_is_refused_like_its_sweep(elsewhere):
    with pytest.raises(UserError, match=r"gpus_per_run = 0\.5 with the engine 'slurm'"):
        sweeping.sweep_plan(
            {"agents": ["finetune"], "sequences": ["cartpole4"], "seeds": "0"}, engine="slurm", gpus_per_run=0.5
        )


def test_slurm_needs_no_options_of_other_engines(elsewhere):
    result = sweep(*SWEEP, "--engine", "slurm", "--dry-run")
    assert result.exit_code == 0, result.output
