"""Settings of all methods: which are refused and the messages; what they ask of a task."""

import gymnasium
import pytest
from pydantic import ValidationError

from blip_rl.errors import UserError
from blip_rl.methods import load_method
from blip_rl.methods.blip import Blip, BlipSettings

BITS = {"first_task_bits": 4}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "blip",
            {},
            "fisher_prior = None, first_task_bits = None, first_task_drift = None: none is given; expected exactly one",
        ),
        ("blip", BITS | {"fisher_prior": 1e-9}, "first_task_bits = 4.0: both are given; expected exactly one"),
        ("blip", BITS | {"first_task_drift": 1}, "first_task_drift = 1.0: both are given; expected exactly one"),
        ("blip", {"first_task_drift": 1, "fisher_prior": 4}, "first_task_drift = 1.0: both are given"),
        ("blip", BITS | {"first_task_drift": 1, "fisher_prior": 4}, "all are given; expected exactly one"),
        ("blip", {"first_task_drift": 0}, "first_task_drift"),
        ("blip", {"first_task_drift": float("nan")}, "first_task_drift"),
        ("blip", {"fisher_prior": -1e-9}, "fisher_prior"),
        ("blip", {"fisher_prior": float("inf")}, "fisher_prior"),
        ("blip", {"first_task_bits": 0}, "first_task_bits"),
        ("blip", {"first_task_bits": 20}, "first_task_bits = 20.0: expected less than total_bits = 20"),
        ("blip", BITS | {"total_bits": 4}, "first_task_bits = 4.0: expected less than total_bits = 4"),
        ("blip", {"first_task_bits": 0.5, "gain": "paper"}, "0.5: expected at least 1 with gain = 'paper'"),
        ("blip", BITS | {"total_bits": 0}, "total_bits"),
        ("blip", BITS | {"total_bits": 23}, "total_bits"),
        ("blip", BITS | {"gain": "papers"}, "'paper' or 'reference'"),
        ("blip", BITS | {"interval": "whole"}, "'paper' or 'half'"),
        ("blip", BITS | {"weight_bound": "one"}, "'fan' or 'unit'"),
        ("blip", BITS | {"prior_scale": "one"}, "'fan' or 'uniform'"),
        ("blip", BITS | {"fisher_expectation": "both"}, "'sampled' or 'exact'"),
        ("blip", BITS | {"nest": True}, "nest"),
        ("ewc", {"strength": -1}, r"strength = -1: input should be greater than or equal to 0"),
        ("ewc", {"strength": True}, "true: expected a number"),
        ("ewc", {"fisher_samples": 0}, r"fisher_samples = 0: input should be greater than or equal to 1"),
        ("ewc", {"gamma": 0.5}, "gamma"),
        ("ewc_online", {"gamma": 1.5}, r"gamma = 1.5: input should be less than or equal to 1"),
        ("ewc_online", {"gamma": -0.1}, r"gamma = -0.1: input should be greater than or equal to 0"),
        ("l2", {"strength": float("nan")}, "strength"),
        ("packnet", {"tasks": 0}, "tasks"),
        ("packnet", {"tasks": 256}, "tasks"),
        ("packnet", {"retrain_share": 1.0}, "retrain_share"),
        ("gpm", {"threshold": 1.0}, "threshold"),
        ("gpm", {"project": "no"}, "project"),
        ("sgp", {"threshold": 0.0}, "threshold"),
        ("sgp", {"samples": 0}, "samples"),
        ("sgp", {"scale": -1.0}, "scale"),
        ("clear", {"policy_cloning": -1}, "policy_cloning"),
        ("clear", {"batch": True}, "batch"),
        ("clear", {"batch": 65_537}, "batch"),
        ("clear", {"capacity_frames": 0}, "capacity_frames"),
        ("clear", {"capacity_mb": 0}, "capacity_mb"),
        ("freeze", {"strength": 1}, "strength"),
        ("single", {"tasks": 6}, "tasks"),
        ("finetune", BITS, "first_task_bits"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        load_method(name)(**settings)


def test_all_wrong_settings_are_named_in_one_message_of_plain_lines():
    with pytest.raises(UserError) as caught:
        Blip(first_task_bit=3, total_bits=0)
    assert str(caught.value) == (
        "2 problems:\n"
        "  Blip(…): total_bits = 0: input should be greater than or equal to 1\n"
        "  Blip(…): first_task_bit = 3: unknown key: did you mean first_task_bits? (allowed: "
        f"{', '.join(BlipSettings.model_fields)})"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"fisher_prior": 1e-300},
        {"first_task_bits": 0.1},
        {"first_task_bits": 19.9},
        {"first_task_bits": 1, "gain": "paper"},
        {"first_task_drift": 1e-9},
        {"first_task_drift": 1e9, "interval": "half"},
    ],
)
def test_blip_accepts_extreme_settings(settings):
    assert Blip(**settings).settings == BlipSettings(**settings)


def test_settings_cannot_be_assigned():
    with pytest.raises(ValidationError, match="frozen"):
        Blip(**BITS).settings.nested = False


@pytest.mark.parametrize(("name", "settings"), [("blip", BITS), ("ewc", {}), ("ewc_online", {})])
def test_fisher_methods_ask_for_samples_and_refuse_exact_expectations_of_continuous_actions(name, settings):
    discrete, continuous = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))
    method = load_method(name)
    assert method(**settings).samples_wanted == 2000
    assert method(**settings, fisher_samples=7).samples_wanted == 7
    method(**settings).check_task("pendulum", continuous)
    exact = method(**settings, fisher_expectation="exact")
    exact.check_task("pole", discrete)
    with pytest.raises(UserError, match=r"task 'pendulum' has Box actions: .* needs a Discrete"):
        exact.check_task("pendulum", continuous)


@pytest.mark.parametrize("name", ["ewc", "ewc_online"])
def test_reversed_logits_refuse_continuous_actions(name):
    method = load_method(name)(importance="reversed")
    method.check_task("pole", gymnasium.spaces.Discrete(3))
    with pytest.raises(
        UserError, match=r"'pendulum' has Box actions: method\.importance = 'reversed' needs a Discrete"
    ):
        method.check_task("pendulum", gymnasium.spaces.Box(-1, 1, (2,)))
