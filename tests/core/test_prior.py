"""The prior that freezes a wanted number of bits: reached, monotone, and honest about what cannot be reached."""

import pytest
import torch

from blip_rl.core.prior import mean_first_bits, solve_prior

RULES = ["paper", "reference"]


def spread_out_fisher(weights=4000, seed=0):
    """Log-normal over many orders of magnitude, as the Fisher of a network is."""
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(torch.randn(weights, generator=generator) * 4 - 12)


def mean_bits_oracle(fisher, prior, rule, total_bits):
    """Bit by bit in float64: a weight freezes n bits where the gain is above n − 1."""
    ratio = 1 + fisher.double() / prior
    gain = 0.5 * torch.log2(ratio if rule == "paper" else ratio / 2)
    return sum((gain > n).double().mean().item() for n in range(total_bits))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prior", [1e-20, 1e-12, 1e-7, 1e-3, 10.0])
def test_mean_first_bits_counts_what_the_first_task_freezes(prior, rule):
    fisher = torch.cat([spread_out_fisher(), torch.zeros(1000)])
    expected = mean_bits_oracle(fisher, prior, rule, total_bits=20)
    assert mean_first_bits(fisher, prior, rule) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("target", [1.3, 2, 4, 8.5, 15, 19])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_prior_found_freezes_the_target(rule, target, seed):
    fisher = spread_out_fisher(seed=seed)
    prior, reached = solve_prior(fisher, target, rule)
    assert reached == pytest.approx(target, abs=2e-3)
    assert mean_bits_oracle(fisher, prior, rule, total_bits=20) == pytest.approx(target, abs=5e-3)


@pytest.mark.parametrize("rule", RULES)
def test_fewer_bits_in_total_are_respected(rule):
    prior, reached = solve_prior(spread_out_fisher(), 3.0, rule, total_bits=4)
    assert reached == pytest.approx(3.0, abs=2e-3)
    assert mean_bits_oracle(spread_out_fisher(), prior, rule, total_bits=4) == pytest.approx(3.0, abs=5e-3)


@pytest.mark.parametrize("rule", RULES)
def test_bits_fall_as_the_prior_grows(rule):
    fisher = spread_out_fisher()
    frozen = [mean_first_bits(fisher, 2.0**exponent, rule) for exponent in range(-120, 61, 5)]
    assert frozen == sorted(frozen, reverse=True)
    assert frozen[0] == 20
    assert frozen[-1] == (1 if rule == "paper" else 0)


@pytest.mark.parametrize("rule", RULES)
def test_a_higher_target_needs_a_smaller_prior(rule):
    priors = [solve_prior(spread_out_fisher(), target, rule)[0] for target in (2, 4, 8, 12)]
    assert priors == sorted(priors, reverse=True)
    assert len(set(priors)) == 4


@pytest.mark.parametrize("rule", RULES)
def test_the_prior_scales_with_the_fisher(rule):
    prior, _ = solve_prior(spread_out_fisher(), 4, rule)
    scaled, _ = solve_prior(spread_out_fisher() * 1000, 4, rule)
    assert scaled / prior == pytest.approx(1000, rel=0.02)


@pytest.mark.parametrize("rule", RULES)
def test_a_target_that_too_few_weights_can_reach_reports_what_was_reached(rule):
    """Half of the weights carry no information: 10 of 20 bits on average is all there is."""
    fisher = torch.cat([spread_out_fisher(500), torch.zeros(500)])
    prior, reached = solve_prior(fisher, 12, rule)
    assert reached == 10
    assert mean_first_bits(fisher, prior, rule) == 10


@pytest.mark.parametrize("rule", RULES)
def test_without_any_information_nothing_freezes(rule):
    prior, reached = solve_prior(torch.zeros(10), 4, rule)
    assert reached == 0
    assert prior > 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("target", "nearest"), [(2.1, 2), (2.9, 3), (7.4, 7), (7.6, 8)])
def test_where_bits_jump_across_the_target_the_nearer_side_is_taken(rule, target, nearest):
    """All weights alike: the mean is a whole number of bits for any prior."""
    fisher = torch.full((100,), 0.37)
    prior, reached = solve_prior(fisher, target, rule)
    assert reached == nearest
    assert mean_first_bits(fisher, prior, rule) == nearest


def test_the_papers_rule_cannot_freeze_less_than_a_bit_of_informed_weights():
    _, reached = solve_prior(spread_out_fisher(), 0.5, "paper")
    assert reached == 1
