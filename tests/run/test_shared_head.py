"""Runs with one head for all tasks, whose agent is not told the task."""

import pytest
import torch

from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods import make_method
from blip_rl.recipes import RecipeError, load_run_config, resolve
from blip_rl.run.train import train
from blip_rl.storage.checkpoint import load_stage
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import assert_equal, killed_at, resume_run, settings, small_run

SHARED = ("trunk.heads=shared", "trunk.task_modulation=false")
WORKING = ["finetune", "freeze", "blip", "l2", "ewc", "ewc-online", "ewc-kronecker", "gpm", "sgp", "clear", "multitask"]

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


def shared_run(agent):
    return small_run(agent, steps="256", overrides=(*settings(agent), *SHARED))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def run(agent):
        if agent not in made:
            made[agent] = train(shared_run(agent), out=tmp_path_factory.mktemp("shared") / "run", threads=1, quiet=True)
        return made[agent]

    return run


def loaded(run):
    folder, config = RunFolder.existing(run), load_run_config(run)
    return [load_stage(folder.stage_path(stage), config) for stage in folder.stages()], config


@pytest.mark.parametrize("agent", WORKING)
def test_all_tasks_use_one_head(agent, whole):
    stages, _ = loaded(whole(agent))
    policy = stages[-1].policy
    assert policy.task_names == ["cartpole-a", "cartpole-b"]
    assert len(policy.tasks) == 1
    observations = torch.zeros(3, 4)
    first, second = (policy.outputs_of(task, observations) for task in (1, 2))
    assert first[0].logits.equal(second[0].logits)
    assert first[1].equal(second[1])


def test_blip_keeps_the_shared_actor_in_its_intervals(whole):
    stages, config = loaded(whole("blip"))
    assert {"actor.weight.frozen_bits", "actor.bias.frozen_bits"} <= stages[0].method_state.tensors.keys()
    method = make_method(config.agent.method)
    method.load_state(stages[0].method_state)
    method.start_task(stages[0].policy.protected)
    final = dict(stages[1].policy.protected.named_parameters())
    for name, (low, high) in method.intervals().items():
        assert ((low <= final[name]) & (final[name] <= high)).all(), name
    assert method.frozen_bits()["actor.weight"].sum() > 0


def test_freeze_keeps_the_shared_actor(whole):
    stages, _ = loaded(whole("freeze"))
    before, after = (dict(stage.policy.protected.named_parameters()) for stage in stages)
    assert all(before[name].equal(after[name]) for name in before)
    critics = [stage.policy.tasks[0].critic.weight for stage in stages]
    assert not critics[0].equal(critics[1])


@pytest.mark.parametrize("agent", ["blip", "clear"])
def test_a_killed_run_with_a_shared_head_equals_an_uninterrupted_run(agent, whole, tmp_path):
    with killed_at(ContinualPPO, "train", 3, after=True):
        train(shared_run(agent), out=tmp_path / "run", threads=1, quiet=True)
    assert_equal(resume_run(tmp_path / "run"), whole(agent))


@pytest.mark.parametrize("agent", ["single", "packnet", "blip-distil"])
def test_an_agent_that_must_be_told_the_task_refuses_a_shared_head(agent):
    with pytest.raises(RecipeError, match=r"trunk.heads = 'shared' with .*expected heads = 'per-task'"):
        small_run(agent, overrides=(*settings(agent), *SHARED))


def test_parameters_of_a_task_are_refused_with_a_shared_head():
    with pytest.raises(RecipeError, match="heads = 'shared' with task_modulation = true"):
        resolve("cartpole4", "blip", overrides=["trunk.heads=shared"])


def test_a_shared_head_needs_equal_actions_before_anything_is_written(tmp_path):
    config = resolve("kungfu,boxing", "finetune", steps="2k", overrides=SHARED)
    with pytest.raises(UserError, match=r"'boxing' has the actions Discrete\(18\), but 'kungfu' has Discrete\(14\)"):
        train(config, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
