"""Solving for the prior: targets of bits and drift are reached, monotone, and reported if out of reach."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blip_rl.core.prior import LEAST_FISHER, ParameterFisher, PriorSearch, shortfall, solve_prior

RULES = ["paper", "reference"]
INTERVALS = ["paper", "half"]


def spread_out_fisher(weights=4000, seed=0):
    """Log-normal over many orders of magnitude, as the Fisher of a network is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(torch.randn(weights, generator=generator) * 4 - 12)


def mean_bits_oracle(fisher, prior, rule, total_bits):
    """Bit by bit in float64: a weight freezes n bits where the gain is above n − 1."""
    ratio = 1 + fisher.double() / prior
    gain = 0.5 * torch.log2(ratio if rule == "paper" else ratio / 2)
    return sum((gain > n).double().mean().item() for n in range(total_bits))


def mean_first_bits(fisher, prior, rule, total_bits=20):
    return PriorSearch([ParameterFisher(fisher)], rule, total_bits=total_bits).outcome(prior).informed_bits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("total_bits", [4, 20])
@pytest.mark.parametrize("prior", [1e-20, 1e-12, 1e-7, 1e-3, 10.0])
def test_outcome_counts_the_bits_that_the_first_task_freezes(prior, rule, total_bits):
    informed = spread_out_fisher()
    parameter = ParameterFisher(torch.cat([informed, torch.zeros(1000)]))
    found = PriorSearch([parameter], rule, total_bits=total_bits).outcome(prior)
    expected = mean_bits_oracle(informed, prior, rule, total_bits)
    assert found.informed == 4000
    assert found.informed_bits == pytest.approx(expected, abs=2e-3)
    assert found.bits == pytest.approx(expected * 0.8, abs=2e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("target", [1.3, 2, 4, 8.5, 15, 19])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_prior_found_freezes_the_target(rule, target, seed):
    fisher = spread_out_fisher(seed=seed)
    prior, reached = solve_prior(fisher, target, rule)
    assert reached == pytest.approx(target, abs=2e-3)
    assert mean_bits_oracle(fisher, prior, rule, total_bits=20) == pytest.approx(target, abs=5e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dead", [1_000, 16_000, 400_000])
def test_weights_without_information_do_not_count(rule, dead):
    """The number of dead units does not change the bits of the other units."""
    live = spread_out_fisher()
    prior, reached = solve_prior(torch.cat([live, torch.zeros(dead)]), 12, rule)
    assert (prior, reached) == solve_prior(live, 12, rule)
    assert reached == pytest.approx(12, abs=2e-3)


@pytest.mark.parametrize("rule", RULES)
def test_fisher_below_the_least_counts_as_no_information(rule):
    live = spread_out_fisher()
    silent = torch.full((16_000,), LEAST_FISHER / 2)
    assert solve_prior(torch.cat([live, silent]), 2, rule) == solve_prior(live, 2, rule)


def test_no_information_has_no_solution():
    with pytest.raises(ValueError, match="no prior can be solved for"):
        solve_prior(torch.zeros(10), 4)
    search = PriorSearch([ParameterFisher(torch.zeros(10)), ParameterFisher(torch.zeros(3), is_weight=False)])
    assert (search.for_bits(4), search.for_drift(1.0)) == (None, None)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("target", "nearest"), [(2.1, 2), (2.9, 3), (7.4, 7), (7.6, 8)])
def test_nearer_side_is_chosen_where_bits_jump_across_the_target(rule, target, nearest):
    """All weights alike: the mean is a whole number of bits for any prior."""
    fisher = torch.full((100,), 0.37)
    prior, reached = solve_prior(fisher, target, rule)
    assert reached == nearest
    assert mean_first_bits(fisher, prior, rule) == nearest


def test_the_papers_rule_cannot_freeze_less_than_a_bit_of_informed_weights():
    _, reached = solve_prior(spread_out_fisher(), 0.5, "paper")
    assert reached == 1


# --- drift


def drift_oracle(parameters, prior, rule, interval, total_bits):
    """½ (Σ √F r)² one weight at a time, in float64, with the equations written out."""
    total = 0.0
    for parameter in parameters:
        for fisher in parameter.fisher.double().flatten().tolist():
            ratio = 1 + fisher / (prior * parameter.fan)
            gain = 0.5 * math.log2(ratio if rule == "paper" else ratio / 2)
            frozen = min(max(math.ceil(gain), 0), total_bits)
            step = 2.0**-total_bits
            if frozen == 0:
                width = 1 - step
            elif interval == "paper":
                width = 2.0**-frozen if frozen < total_bits else 0.0
            else:
                width = max(0.0, 2.0 ** -(frozen + 1) - step)
            total += math.sqrt(fisher) * width * parameter.bound
    return 0.5 * total**2


def small_trunk(seed=0, dead=0, scale=0.0):
    """A convolution, a layer and a bias, with the bounds and fans of the reference."""
    fisher = spread_out_fisher(2400, seed) * 10.0**scale
    dead_units = torch.zeros(dead, 100)
    return [
        ParameterFisher(fisher[:800].reshape(8, 4, 5, 5), 100, 6 / 10),
        ParameterFisher(torch.cat([fisher[800:2300].reshape(15, 100), dead_units]), 100, 6 / 10),
        ParameterFisher(fisher[2300:], 100, 1.0, is_weight=False),
    ]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("total_bits", [4, 20])
@pytest.mark.parametrize("prior", [1e-16, 1e-10, 1e-6, 1e-3])
def test_the_drift_is_the_formula(rule, interval, total_bits, prior):
    parameters = small_trunk(dead=5)
    found = PriorSearch(parameters, rule, interval, total_bits).outcome(prior)
    expected = drift_oracle(parameters, prior, rule, interval, total_bits)
    assert found.drift == pytest.approx(expected, rel=2e-3)  # a gain next to a whole number may round either way


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("target", [1e-6, 1e-4, 0.01, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_prior_found_has_the_drift_asked_for(rule, interval, target, seed):
    parameters = small_trunk(seed)
    found = PriorSearch(parameters, rule, interval).for_drift(target)
    assert target * 0.99 <= found.drift <= target
    assert drift_oracle(parameters, found.prior, rule, interval, 20) == pytest.approx(target, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 50),
    rule=st.sampled_from(RULES),
    interval=st.sampled_from(INTERVALS),
    total_bits=st.integers(1, 22),
    exponents=st.lists(st.floats(-110, 50), min_size=2, max_size=12),
)
def test_the_drift_never_falls_and_bits_never_rise_with_the_prior(seed, rule, interval, total_bits, exponents):
    search = PriorSearch(small_trunk(seed), rule, interval, total_bits)
    found = [search.outcome(2.0**exponent) for exponent in sorted(exponents)]
    drifts, bits = [one.drift for one in found], [one.informed_bits for one in found]
    assert drifts == sorted(drifts)
    assert bits == sorted(bits, reverse=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 50),
    rule=st.sampled_from(RULES),
    interval=st.sampled_from(INTERVALS),
    target=st.floats(-9, 4),
    scale=st.floats(-6, 2),
)
def test_the_drift_is_at_most_what_was_asked_for_and_a_higher_prior_has_more(seed, rule, interval, target, scale):
    search = PriorSearch(small_trunk(seed, scale=scale), rule, interval)
    found = search.for_drift(10**target)
    assert found.drift <= 10**target
    assert found == search.outcome(found.prior)
    if found.drift < 10**target * 0.998:  # a step across the target, or no bits at all to give back
        above = search.outcome(found.prior * (1 + 1e-5))
        assert above.drift > 10**target or above.informed_bits == found.informed_bits <= 1


def test_the_drift_does_not_depend_on_dead_units_nor_on_chunks(monkeypatch):
    found = [PriorSearch(small_trunk(dead=dead)).for_drift(0.01) for dead in (0, 60, 3000)]
    assert len({(one.prior, one.informed_bits) for one in found}) == 1
    assert found[2].bits < found[1].bits < found[0].bits


def test_prior_for_a_drift_falls_with_the_square_of_the_network_size():
    """Drift ≈ 36 n² F₀ with n the weights that freeze a bit."""
    parameters = small_trunk()
    once, twice = (PriorSearch(parameters * times).for_drift(0.01) for times in (1, 2))
    assert once.prior / twice.prior == pytest.approx(4, rel=0.15)


def test_a_drift_that_is_lower_without_frozen_bits_takes_the_lowest_prior_that_freezes_none():
    parameters = small_trunk()
    found = PriorSearch(parameters).for_drift(1e9)
    assert found.bits == 0
    highest = max((one.fisher / one.fan).max().item() for one in parameters)
    assert highest <= found.prior <= 4 * highest  # a later task with more information freezes bits
    assert shortfall(found, None, 1e9, 20) is None  # the bound holds


def test_shortfall_warns_of_a_drift_that_leaves_no_free_bits():
    found = PriorSearch(small_trunk()).for_drift(1e-30)
    assert found.informed_bits > 19
    assert "first_task_drift = 1e-30 leaves almost no free bits for later tasks" in shortfall(found, None, 1e-30, 20)


# --- shortfall


def test_shortfall_is_none_if_the_target_is_reached():
    search = PriorSearch(small_trunk())
    assert shortfall(search.for_bits(3), 3, None, 20) is None
    assert shortfall(search.for_drift(0.01), None, 0.01, 20) is None
    assert shortfall(search.outcome(1e-60), None, None, 20) is None  # a prior that was given was meant


def test_shortfall_names_the_nearest_reachable_bits():
    found = PriorSearch([ParameterFisher(torch.full((100,), 0.37))]).for_bits(2.4)
    assert "first_task_bits = 2.4 cannot be reached" in shortfall(found, 2.4, None, 20)
    assert "freezes 2.00 bits on average of the 100 weights" in shortfall(found, 2.4, None, 20)
    found = PriorSearch(small_trunk()).for_bits(19.6)
    assert "leaves almost no free bits for later tasks" in shortfall(found, 19.6, None, 20)
    assert "no Fisher information about any weight" in shortfall(None, 2, None, 20)
