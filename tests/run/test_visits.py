"""Runs in which tasks come back: every method, interrupted runs, evaluation and export of visits."""

import pytest

from blip_rl.errors import UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.recipes import RecipeError, load_run_config
from blip_rl.run.train import train
from blip_rl.sb3.export import export_run
from blip_rl.storage.checkpoint import load_stage
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import assert_equal, killed_at, resume_run, small_run

REFUSED = {"single", "packnet", "multitask"}
WORKING = ["finetune", "freeze", "l2", "ewc", "ewc-online", "ewc-kronecker", "gpm", "sgp"]
ORDER = "cartpole-a,cartpole-b,cartpole-a"

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs of three visits to two tasks, trained on first use."""
    made = {}

    def run(agent):
        if agent not in made:
            out = tmp_path_factory.mktemp("visits") / "run"
            made[agent] = train(small_run(agent, games=ORDER, steps="256"), out=out, threads=1, quiet=True)
        return made[agent]

    return run


@pytest.mark.parametrize("agent", ["blip", "blip-distil", "clear", *WORKING])
def test_a_task_that_comes_back_continues_with_its_head(agent, whole):
    run = whole(agent)
    folder, config = RunFolder.existing(run), load_run_config(run)
    assert folder.stages() == [1, 2, 3]
    stages = [load_stage(folder.stage_path(stage), config) for stage in folder.stages()]
    assert [stage.policy.task_names for stage in stages] == [["cartpole-a"], *[["cartpole-a", "cartpole-b"]] * 2]
    assert stages[-1].env_steps >= 3 * 256
    weights = [stage.policy.tasks[0].actor.weight for stage in stages]
    assert weights[0].equal(weights[1])
    assert not weights[1].equal(weights[2])
    rows = [row for row in folder.read_scores() if row.phase == "after"]
    assert {(row.stage, row.task) for row in rows} == {
        (1, "cartpole-a"),
        *((stage, task) for stage in (2, 3) for task in ("cartpole-a", "cartpole-b")),
    }


def test_clear_keeps_one_memory_for_a_task_that_comes_back(whole):
    folder = RunFolder.existing(whole("clear"))
    memory = load_stage(folder.stage_path(3), load_run_config(folder.path)).method_state
    assert memory.values["tasks_seen"] == 2
    assert {name.partition(".")[0] for name in memory.tensors} == {"task1", "task2"}


@pytest.mark.parametrize("agent", sorted(REFUSED))
def test_a_method_without_visits_refuses_them_before_anything_is_written(agent):
    with pytest.raises(RecipeError, match=rf"2 tasks with method.name = .{agent}.: .*expected each task once"):
        small_run(agent, games=ORDER)


@pytest.mark.parametrize("agent", ["blip", "blip-distil", "clear"])
def test_a_run_killed_in_a_second_visit_equals_an_uninterrupted_run(agent, whole, tmp_path):
    with killed_at(ContinualPPO, "train", 5, after=True):
        train(small_run(agent, games=ORDER, steps="256"), out=tmp_path / "run", threads=1, quiet=True)
    assert RunFolder(tmp_path / "run").stages() == [1, 2]
    assert_equal(resume_run(tmp_path / "run"), whole(agent))


def test_visits_are_evaluated_and_exported(whole, tmp_path):
    assert "learned cartpole-a (visit 2)" in evaluate_run(whole("blip"), stages=[2, 3], episodes=1, workers=1).text
    exported = export_run(whole("blip"), stage=3, out=tmp_path / "models")
    assert [model.file.name for model in exported] == ["stage-03-cartpole-a.zip", "stage-03-cartpole-b.zip"]
    with pytest.raises(UserError, match="stage 4 has no checkpoint"):
        evaluate_run(whole("blip"), stages=[4])
