"""``learning = "distil"``: steps of a task and combinations that are refused; test_bases.py has the shipped recipes."""

import pytest

from blip_rl.agent_config import AgentConfig, DistilConfig
from blip_rl.config import RunConfig
from blip_rl.methods import load_method, make_method, method_names
from blip_rl.methods.ewc_online import EwcOnline
from blip_rl.recipes import RecipeError, dump_run_config, load_run_config, resolve


def test_steps_for_distilling_are_taken_from_the_steps_of_the_task():
    config = resolve("cartpole4", "blip-distil", steps="120k", overrides=["distil.teacher_states=1000"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == 4 * [120_000 - 1000 - 4096]
    config = resolve("cartpole4", "blip-distil", overrides=["distil.first_task=false", "distil.student_states=0"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == [120_000] + 3 * [120_000 - 4096]
    assert [config.learned_apart(stage) for stage in (1, 2)] == [False, True]
    config = resolve("cartpole4", "blip-distil", overrides=["learning=direct"])
    assert [config.learning_steps(stage) for stage in (1, 2, 3, 4)] == 4 * [120_000]


def test_states_of_the_last_rollouts_are_whole_rollouts_and_cost_no_steps():
    settings = ["ppo.environments=4", "ppo.rollout_steps=32", "distil.teacher_states=32", "distil.student_states=32"]

    def kept(states, agent="blip-distil", *more):
        overrides = [*settings, f"distil.rollout_states={states}", *more]
        config = resolve("cartpole-a,cartpole-b", agent, steps="1000", overrides=overrides)
        assert config.learning_steps(2) == (1000 if config.agent.learning == "direct" else 936)
        return [config.rollout_states(stage) for stage in (1, 2)]

    assert kept(0) == [0, 0]
    assert kept(128) == [128, 128]
    assert kept(129) == [256, 256]
    assert kept(10**6) == [1024, 1024], "a task has 8 rollouts"
    assert kept(128, "blip-distil", "distil.first_task=false") == [0, 128]
    assert kept(128, "blip-distil", "learning=direct") == [0, 0]


def test_tasks_with_too_few_steps_for_distilling_are_refused(problems):
    (line,) = problems("cartpole4", "blip-distil", steps="8192")
    assert "task 'cartpole-a' has steps = 8,192: expected more than 8,192" in line
    assert "lower distil.teacher_states and distil.student_states" in line
    assert resolve("cartpole4", "blip-distil", steps="9216").learning_steps(2) == 1024
    assert resolve("cartpole-a", "blip-distil", steps="1024", overrides=["distil.first_task=false"])
    assert resolve("cartpole4", "blip-distil", steps="1024", overrides=["learning=direct"])


def test_steps_below_one_rollout_are_refused(problems):
    (line,) = problems("cartpole-a,cartpole-b", "blip", steps=1)
    assert line.startswith("steps = 1 for cartpole-a, cartpole-b: expected at least 1,024, one rollout of ")
    assert "ppo.environments × ppo.rollout_steps = 8 × 128 steps (give more steps" in line
    assert len(problems("cartpole-a", "blip", steps=1023)) == 1
    assert resolve("cartpole-a", "blip", steps=1024)
    assert resolve(
        "cartpole-a", "blip", steps=2, overrides=["ppo.environments=1", "ppo.rollout_steps=2", "ppo.minibatches=1"]
    )
    (line,) = problems("cartpole-a", "blip-distil", steps=9215)
    assert "expected at least 9,216, one rollout" in line
    assert "8 × 128 steps and 8,192 for distilling" in line


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


def test_every_other_method_can_be_distilled_into():
    assert {name for name in method_names() if not load_method(name).distillable} == {"single", "multitask"}


def test_progress_and_compress_distils_under_online_ewc_on_states_of_the_teacher():
    config = resolve("cartpole4", "progress-compress", steps="120k")
    agent = config.agent
    method = make_method(agent.method)
    assert (agent.learning, type(method)) == ("distil", EwcOnline)
    assert (method.settings.gamma, method.settings.fisher_scale) == (0.99, "equal")
    assert (agent.distil.start, agent.distil.student_states) == ("fresh", 0)
    assert config.learning_steps(1) == 120_000 - agent.distil.teacher_states


def test_runs_saved_before_these_settings_existed_learn_directly():
    values = resolve("cartpole4", "blip").model_dump()
    del values["agent"]["learning"], values["agent"]["distil"]
    assert RunConfig.model_validate(values).agent.learning == "direct"
    assert AgentConfig.model_validate(values["agent"]).distil == DistilConfig()
