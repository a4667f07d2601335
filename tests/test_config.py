"""Validation of settings: the value and the rule are in the message."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blip_rl.agent_config import PpoConfig
from blip_rl.config import AtariConfig, EvaluationConfig, RunConfig, SequenceConfig
from blip_rl.step_counts import parse_steps
from blip_rl.task_schedule import TaskConfig

PPO = {
    "environments": 16,
    "rollout_steps": 125,
    "minibatches": 8,
    "epochs": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "clip_range": 0.1,
    "entropy_coefficient": 0.01,
    "value_coefficient": 0.5,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "max_gradient_norm": 0.5,
    "adam_epsilon": 1e-5,
}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (50_000, 50_000),
        (2e6, 2_000_000),
        ("500k", 500_000),
        ("10M", 10_000_000),
        ("1e6", 1_000_000),
        ("1.5m", 1_500_000),
        (" 2_000 ", 2_000),
        ("0.5k", 500),
        ("1G", 1_000_000_000),
        ("2 b", 2_000_000_000),
    ],
)
def test_steps_are_parsed(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "wrong",
    ["", "k", "many", "-5", "0", "0.5", "1.5", "nan", "inf", "1e400", "1" * 50, "1e99", "5 k k", True, None, [1], 0.3],
)
def test_invalid_steps_are_refused_with_the_rule(wrong):
    with pytest.raises(ValueError, match="expected a whole number of steps of at least 1") as caught:
        parse_steps(wrong)
    assert repr(wrong) in str(caught.value)


@given(
    st.text() | st.text(alphabet=string.digits + "._eE+-kM ") | st.integers() | st.floats() | st.none() | st.booleans()
)
def test_steps_are_whole_and_positive_or_an_error(value):
    try:
        steps = parse_steps(value)
    except ValueError:
        return
    assert type(steps) is int
    assert 1 <= steps <= 10**15


@given(st.integers(min_value=1, max_value=10**15))
def test_formatted_steps_are_parsed_back(steps):
    assert parse_steps(steps) == parse_steps(str(steps)) == parse_steps(f"{steps:_}") == steps


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("environments", 0),
        ("environments", True),
        ("epochs", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", True),
        ("learning_rate_schedule", "cosine"),
        ("discount", 1.01),
        ("gae_lambda", -0.1),
        ("entropy_coefficient", -1e-9),
        ("clip_range_value", 0),
        ("minibatches", 7),
        ("value_loss", "unclipped"),
        ("value_loss_scale", 0),
        ("normalize_advantage", True),
        ("learning_rat", 1e-4),
    ],
)
def test_invalid_ppo_settings_are_refused(key, wrong):
    with pytest.raises(ValidationError, match=key):
        PpoConfig(**{**PPO, key: wrong})


def test_the_larger_value_loss_needs_a_limit_to_clip_at():
    with pytest.raises(ValidationError, match=r"value_loss = 'max' without clip_range_value: .*value_loss = 'clipped'"):
        PpoConfig(**PPO, value_loss="max")
    assert PpoConfig(**PPO, value_loss="max", clip_range_value=0.2).value_loss == "max"


def test_defaults_of_the_value_loss_are_those_of_earlier_versions():
    config = PpoConfig(**PPO)
    assert (config.value_loss, config.value_loss_scale, config.normalize_advantage) == ("clipped", 1.0, "minibatch")


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", "a/b", "x" * 81, "ü"])
def test_task_names_fit_into_paths_and_tags(name):
    with pytest.raises(ValidationError, match="name"):
        TaskConfig(name=name, game="pong")


def test_a_task_needs_two_different_scores_to_normalise_by():
    with pytest.raises(ValidationError, match="expected two different scores"):
        TaskConfig(name="a", game="pong", random_score=1.0, reference_score=1.0)
    assert TaskConfig(name="a", game="pong").random_score is None


@pytest.mark.parametrize(("names", "message"), [([], "tasks"), (["a", "a"], "two tasks are named 'a'")])
def test_a_sequence_has_tasks_with_different_names(names, message):
    with pytest.raises(ValidationError, match=message):
        SequenceConfig(description="", tasks=[{"name": name, "game": "pong"} for name in names])


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cuda:0\n"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ValidationError, match="device"):
        RunConfig.model_validate({"device": device})


def test_defaults_are_the_papers_protocol():
    assert (AtariConfig().frame_skip, AtariConfig().frame_size, AtariConfig().frame_stack) == (4, 84, 4)
    assert (EvaluationConfig().episodes, EvaluationConfig().actions) == (10, "greedy")
