"""The projection onto an ellipsoid against bisection on its multiplier."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blip_rl.core.budget import shrink_factor


def spent(fisher, away):
    return 0.5 * (fisher * away.square()).sum().item()


def projected(fisher, away, budget):
    """Slow oracle in float64: bisect the multiplier of d / (1 + λ F)."""
    fisher, away = fisher.double(), away.double()
    if spent(fisher, away) <= budget:
        return away
    low, high = 0.0, 1.0
    while spent(fisher, away / (1 + high * fisher)) > budget:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(fisher, away / (1 + middle * fisher)) > budget else (low, middle)
    return away / (1 + high * fisher)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.integers(1, 400),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0, 4, 12]),  # powers of the Fisher's entries: how unequal they are
    scale=st.sampled_from([1e-8, 1.0, 1e6]),
    share=st.sampled_from([1e-6, 1e-3, 0.5, 0.999, 1.5]),
)
def test_projection_equals_bisection(weights, seed, spread, scale, share):
    generator = torch.Generator().manual_seed(seed)
    fisher = torch.rand(weights, generator=generator).pow(spread) * scale
    away = torch.randn(weights, generator=generator)
    budget = share * spent(fisher, away)
    if budget < 1e-30:
        return
    moved = away * shrink_factor(fisher, away, budget)
    expected = projected(fisher, away, budget)
    assert spent(fisher, moved) <= budget * (1 + 1e-4)
    assert torch.allclose(moved.double(), expected, rtol=2e-3, atol=2e-3 * expected.abs().max().item())


def test_weights_without_information_move_freely():
    fisher, away = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([3.0, 5.0, 4.0])
    moved = away * shrink_factor(fisher, away, 1e-3)
    assert moved[1] == 5
    assert spent(fisher, moved) == pytest.approx(1e-3, rel=1e-4)


def test_nothing_changes_within_the_budget():
    fisher, away = torch.rand(50), torch.randn(50)
    assert shrink_factor(fisher, away, 1.01 * spent(fisher, away)).equal(torch.ones(50))
    assert shrink_factor(torch.zeros(50), away, 1e-9).equal(torch.ones(50))


def test_the_nearest_point_is_nearer_than_a_uniformly_scaled_one():
    fisher, away = torch.tensor([1.0, 0.01]), torch.tensor([1.0, 10.0])
    budget = 0.1 * spent(fisher, away)
    nearest = away * shrink_factor(fisher, away, budget)
    scaled = away * 0.1**0.5
    assert spent(fisher, scaled) == pytest.approx(budget)
    assert (nearest - away).norm() < 0.99 * (scaled - away).norm()
