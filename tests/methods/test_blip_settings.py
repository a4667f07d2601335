"""Settings of BLIP: which are refused, and the messages."""

import gymnasium
import pytest
from pydantic import ValidationError

from blip_rl.errors import UserError
from blip_rl.methods.blip import Blip, BlipSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "fisher_prior = None, first_task_bits = None, first_task_drift = None: none is given; expected exactly one",
        ),
        ({"fisher_prior": 1e-9, "first_task_bits": 4}, "first_task_bits = 4.0: both are given; expected exactly one"),
        ({"first_task_drift": 1, "first_task_bits": 4}, "first_task_drift = 1.0: both are given; expected exactly one"),
        ({"first_task_drift": 1, "fisher_prior": 4}, "first_task_drift = 1.0: both are given; expected exactly one"),
        ({"first_task_drift": 1, "fisher_prior": 4, "first_task_bits": 4}, "all are given; expected exactly one"),
        ({"first_task_drift": 0}, "first_task_drift"),
        ({"first_task_drift": -1}, "first_task_drift"),
        ({"first_task_drift": float("nan")}, "first_task_drift"),
        ({"first_task_drift": float("inf")}, "first_task_drift"),
        ({"first_task_bits": 0.5, "gain": "paper"}, "first_task_bits = 0.5: expected at least 1 with gain = 'paper'"),
        ({"first_task_bits": 4, "interval": "whole"}, "'paper' or 'half'"),
        ({"fisher_prior": 0}, "fisher_prior"),
        ({"fisher_prior": -1e-9}, "fisher_prior"),
        ({"fisher_prior": float("inf")}, "fisher_prior"),
        ({"fisher_prior": float("nan")}, "fisher_prior"),
        ({"first_task_bits": 0}, "first_task_bits"),
        ({"first_task_bits": 20}, "first_task_bits = 20.0: expected less than total_bits = 20"),
        ({"first_task_bits": 4, "total_bits": 4}, "first_task_bits = 4.0: expected less than total_bits = 4"),
        ({"first_task_bits": 4, "total_bits": 0}, "total_bits"),
        ({"first_task_bits": 4, "total_bits": 23}, "total_bits"),
        ({"first_task_bits": 4, "gain": "papers"}, "'paper' or 'reference'"),
        ({"first_task_bits": 4, "weight_bound": "one"}, "'fan' or 'unit'"),
        ({"first_task_bits": 4, "prior_scale": "one"}, "'fan' or 'uniform'"),
        ({"first_task_bits": 4, "fisher_expectation": "both"}, "'sampled' or 'exact'"),
        ({"first_task_bits": 4, "fisher_samples": 0}, "fisher_samples"),
        ({"first_task_bits": 4, "nest": True}, "nest"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Blip(**settings)


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
def test_the_edges_are_allowed(settings):
    assert Blip(**settings).settings == BlipSettings(**settings)


def test_the_defaults():
    settings = Blip(first_task_bits=4).settings
    assert (settings.total_bits, settings.gain) == (20, "reference")
    assert (settings.nested, settings.quantize_forward, settings.round_after_task) == (True, True, False)
    assert settings.interval == "paper"
    assert (settings.weight_bound, settings.prior_scale, settings.fisher_expectation) == ("fan", "fan", "sampled")


def test_the_number_of_observations_is_that_of_the_settings():
    assert Blip(first_task_bits=4).samples_wanted == 2000
    assert Blip(first_task_bits=4, fisher_samples=7).samples_wanted == 7


def test_settings_cannot_change_later():
    blip = Blip(first_task_bits=4)
    with pytest.raises(ValidationError, match="frozen"):
        blip.settings.nested = False


def test_an_exact_expectation_over_continuous_actions_is_refused_before_training():
    discrete, continuous = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,))
    blip = Blip(first_task_bits=4, fisher_expectation="exact")
    blip.check_task("pole", discrete)
    with pytest.raises(UserError, match=r"task 'pendulum' has Box actions: .* needs a Discrete"):
        blip.check_task("pendulum", continuous)
    Blip(first_task_bits=4).check_task("pendulum", continuous)
