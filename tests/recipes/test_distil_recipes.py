"""Recipes that learn tasks apart: what they say, and what they cannot be combined with."""

import pytest

from blip_rl.agent_config import AgentConfig
from blip_rl.config import RunConfig
from blip_rl.methods import load_method, method_names
from blip_rl.recipes import RecipeError, dump_run_config, load_run_config, resolve
from blip_rl.recipes.files import recipe_names

DISTILLING = [name for name in recipe_names("agents") if name.endswith("-distil")]


def test_tasks_are_learned_directly_unless_a_recipe_says_otherwise():
    for agent in recipe_names("agents"):
        assert resolve("cartpole4", agent, steps="120k").agent.learning == (
            "distil" if agent in DISTILLING else "direct"
        )


@pytest.mark.parametrize("name", DISTILLING)
def test_a_shipped_recipe_differs_from_the_plain_agent_where_it_says(name):
    its, plain = (resolve("cartpole4", agent).agent for agent in (name, name.removesuffix("-distil")))
    assert (its.ppo, its.trunk) == (plain.ppo, plain.trunk)
    assert its.method["name"] == plain.method["name"]
    assert its.learning == "distil"


def test_a_task_learned_apart_has_fewer_steps_to_learn_in():
    config = resolve("cartpole4", "blip-distil", steps="120k", overrides=["distil.teacher_states=1000"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == 4 * [120_000 - 1000 - 4096]
    config = resolve("cartpole4", "blip-distil", overrides=["distil.first_task=false", "distil.student_states=0"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == [40_000] + 3 * [40_000 - 4096]
    assert [config.learned_apart(stage) for stage in (1, 2)] == [False, True]
    config = resolve("cartpole4", "blip-distil", overrides=["learning=direct"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == 4 * [40_000]


def test_steps_that_leave_nothing_to_learn_in_are_refused(problems):
    (line,) = problems("cartpole4", "blip-distil", steps="8192")
    assert "task 'cartpole-a' has steps = 8,192: expected more than 8,192" in line
    assert "lower distil.teacher_states and distil.student_states" in line
    assert resolve("cartpole4", "blip-distil", steps="8193").learning_steps(2) == 1
    assert resolve("cartpole-a", "blip-distil", steps="100", overrides=["distil.first_task=false"])
    assert resolve("cartpole4", "blip-distil", steps="100", overrides=["learning=direct"])


@pytest.mark.parametrize("name", ["single", "multitask"])
def test_methods_without_a_shared_trunk_are_refused(name, problems, tmp_path):
    (line,) = problems("cartpole4", name, overrides=["learning=distil"])
    assert line.startswith("--set learning=distil: expected 'direct' with method.name = ")
    assert name in line
    assert "choose another method" in line
    (line,) = problems("cartpole4", "blip-distil", overrides=[f"method.name={name}"])
    assert "learning = 'distil': expected 'direct'" in line

    text = dump_run_config(resolve("cartpole4", name))
    assert 'learning = "direct"' in text
    (tmp_path / "config.toml").write_text(text.replace('learning = "direct"', 'learning = "distil"'))
    with pytest.raises(RecipeError, match=r"config\.toml.*agent\.learning = 'distil': expected 'direct'"):
        load_run_config(tmp_path)


def test_which_methods_say_that_there_is_no_shared_trunk():
    assert {name for name in method_names() if not load_method(name).distillable} == {"single", "multitask"}


def test_a_run_without_these_settings_is_one_that_learns_directly():
    values = resolve("cartpole4", "blip").model_dump()
    del values["agent"]["learning"], values["agent"]["distil"]
    assert RunConfig.model_validate(values).agent.learning == "direct"
    assert AgentConfig.model_validate(values["agent"]).distil.start == "fresh"
