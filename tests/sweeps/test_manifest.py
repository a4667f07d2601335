"""Manifests: which runs a plan has, their names, recipes and commands, and whether a folder belongs to them."""

import dataclasses
import re
import shutil

import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import dump_run_config, parse_run_config, resolve
from blip_rl.recipes.files import recipe_folder
from blip_rl.sweeps import manifest as manifests
from blip_rl.sweeps.folder import check_folder, foreign_runs, open_folder
from blip_rl.sweeps.manifest import load_manifest, save_manifest
from blip_rl.sweeps.search import Search
from tests.reporting.report_runs import make_run
from tests.sweeps.small_sweeps import SEQUENCE, small_manifest, small_plan

GRID = {"agents": "ewc,finetune", "seeds": "3,1", "agent": {"ewc": {"grid": {"method.strength": [1, 10]}}}}
NAME = "cartpole-a+cartpole-b"


def test_a_manifest_lists_every_combination_seed_by_seed():
    names = [run.name for run in small_manifest(**GRID).runs]
    settings = [f"{NAME}-ewc-strength=1", f"{NAME}-ewc-strength=10", f"{NAME}-finetune"]
    assert names == [f"{setting}-seed{seed}" for seed in (3, 1) for setting in settings]


def test_a_job_has_the_recipe_and_the_command_of_the_run_alone(tmp_path):
    job = small_manifest(**GRID).jobs(tmp_path)[4]
    config = parse_run_config(job.recipe, "recipe")
    assert (config.seed, config.agent.method["strength"], config.tasks[0].steps) == (1, 10, 512)
    assert job.path == tmp_path / f"{NAME}-ewc-strength=10-seed1"
    words = job.command.split()
    for option, value in (("--games", SEQUENCE), ("--agent", "ewc"), ("--seed", "1"), ("--out", str(job.path))):
        assert words[words.index(option) + 1] == value
    assert "--set method.strength=10" in job.command


def test_a_saved_manifest_is_read_back(tmp_path):
    manifest = small_manifest(**GRID)
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"agents": "finetne"}, "unknown agent 'finetne': did you mean finetune?"),
        ({"sequences": ("cartpole44",)}, "unknown game 'cartpole44': did you mean cartpole4?"),
        (
            {"grid": {"method.strengh": [1, 2]}, "agents": "ewc"},
            "grid method.strengh=1: unknown key: did you mean strength?",
        ),
        ({"grid": {"steps": [1, 2]}}, "grid steps=1: 'steps' is not a recipe's setting: use --steps"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_line(values, message):
    with pytest.raises(UserError) as error:
        small_manifest(**values)
    assert message in str(error.value)


def test_more_runs_may_be_added_to_a_folder_and_others_no_longer_belong(tmp_path):
    with open_folder(tmp_path / "x", small_manifest(seeds="0-1")):
        pass
    for seed in (0, 1):
        run = tmp_path / "x" / f"{NAME}-finetune-seed{seed}"
        run.mkdir()
        (run / "config.toml").touch()
    later = small_manifest(seeds="1-2", agents="finetune,ewc")
    with open_folder(tmp_path / "x", later):
        assert load_manifest(tmp_path / "x") == later
    assert foreign_runs(tmp_path / "x", later) == [f"{NAME}-finetune-seed0"]


def test_a_folder_of_another_sweep_is_refused_with_what_differs(tmp_path):
    with open_folder(tmp_path, small_manifest()):
        pass
    for values, why in (
        ({"steps": "1k"}, r"finetune differs in tasks\[1\]\.steps: 512 there, 1000 in the plan"),
        ({"seeds": "7"}, "it shares no run with this plan"),
        ({"threads": 2}, "its runs have 1 threads, those of the plan 2"),
    ):
        with pytest.raises(UserError, match=f"is the folder of another sweep: .*{why}.* \\(choose a new --out\\)"):
            check_folder(tmp_path, small_manifest(**values))


def test_a_sweep_of_a_version_with_fewer_settings_is_the_same_sweep(tmp_path):
    manifest = small_manifest(agents="ewc")
    ((name, setting),) = manifest.settings.items()
    lines = [line for line in setting.recipe.splitlines() if not line.startswith(("fisher_scale", "fire_on_reset"))]
    assert len(lines) == len(setting.recipe.splitlines()) - 2
    older = dataclasses.replace(setting, recipe="\n".join(lines))
    save_manifest(tmp_path, dataclasses.replace(manifest, settings={name: older}))
    check_folder(tmp_path, manifest)


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, make_run(tmp_path / "run")):
        with pytest.raises(UserError, match="is not the folder of a sweep"):
            check_folder(path, small_manifest())
    with pytest.raises(UserError, match="is a file"):
        check_folder(tmp_path / "file", small_manifest())


def test_a_sweep_that_was_killed_while_it_wrote_its_first_file_can_begin_again(tmp_path):
    for name in (".lock", f".blip-rl-{'0' * 16}.tmp"):
        (tmp_path / name).touch()
    with open_folder(tmp_path, small_manifest()):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "sweep.json"]


def test_the_error_of_a_sweep_is_told_where_something_else_is_in_its_new_folder(tmp_path):
    def begin():
        (tmp_path / "x" / "notes.txt").touch()
        raise UserError("cannot run")

    with pytest.raises(UserError, match="cannot run"), open_folder(tmp_path / "x", small_manifest()):
        begin()
    check_folder(tmp_path / "x", small_manifest())  # the same command may begin again


def test_a_damaged_manifest_is_named(tmp_path):
    save_manifest(tmp_path, small_manifest())
    (tmp_path / "sweep.json").write_text('{"version": 2}')
    with pytest.raises(UserError, match=r"sweep\.json.*version = 2"):
        load_manifest(tmp_path)


def test_a_run_of_a_setting_that_a_manifest_does_not_list_is_named(tmp_path):
    manifest = small_manifest()
    save_manifest(tmp_path, dataclasses.replace(manifest, settings={}))
    with pytest.raises(
        UserError, match=r"sweep\.json': the run with seed 0 has the setting 'cartpole-a.*: expected one"
    ):
        load_manifest(tmp_path)


def test_too_many_runs_are_refused_before_their_recipes_are_resolved(monkeypatch):
    """A hundred thousand take twenty minutes."""
    monkeypatch.setattr(manifests, "resolve", None)
    grid = {"ppo.epochs": list(range(1, 301)), "ppo.discount": [number / 500 for number in range(400)]}
    with pytest.raises(UserError, match=r"240,000 runs: expected at most 100,000 \(split the sweep\)"):
        small_manifest(agents="ewc,finetune", grid=grid)


def test_only_one_process_runs_a_sweep(tmp_path):
    manifest = small_manifest()
    with (
        open_folder(tmp_path / "x", manifest),
        pytest.raises(UserError, match="another process runs the sweep"),
        open_folder(tmp_path / "x", manifest),
    ):
        pass


def test_the_recipe_of_a_job_is_equal_to_that_of_the_run_alone(tmp_path):
    manifest = small_manifest(agents="blip", set={"method.interval": "half"}, cycles=2, steps="2k")
    alone = resolve(SEQUENCE, "blip", steps="2k", cycles=2, device="cpu", overrides=["method.interval=half"])
    (job,) = manifest.jobs(tmp_path)
    assert parse_run_config(job.recipe, "recipe") == alone
    assert job.recipe == dump_run_config(alone)


def test_recipes_whose_files_have_the_same_name_are_refused(tmp_path):
    """Their runs would have the same folders: one of them would not be trained."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        shutil.copy(recipe_folder("agents") / "finetune.toml", tmp_path / folder / "mine.toml")
    agents = tuple(str(tmp_path / folder / "mine.toml") for folder in "ab")
    with pytest.raises(UserError, match=rf"two settings have the name '{re.escape(NAME)}-mine'.*rename one"):
        small_manifest(agents=agents)
    ranges = {"method.shrink_and_perturb": {"low": 0.1, "high": 0.2}}
    plan = small_plan(agents=agents, seeds="0", tuning_seeds="1", search=ranges)
    with pytest.raises(UserError, match="two settings have the name"):
        Search(plan, tmp_path / "out").examples()
