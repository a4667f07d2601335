"""One penalty against the sum it stands for, written out term by term in float64, with its gradient from autograd."""

import pytest
import torch
from safetensors.torch import load, save

from blip_rl.core.penalty import QuadraticPenalty

ALL = ("fisher", "anchor", "slope")
SHAPES = {"weight": (3, 4), "bias": (3,), "conv": (2, 3, 2, 2)}


def drawn(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def a_fisher(seed):
    return {name: value.square() for name, value in drawn(seed).items()}


def terms(tasks=4):
    """(θ*_k, F_k) of each task."""
    return [(drawn(k), a_fisher(100 + k)) for k in range(tasks)]


def written_out(terms, weights):
    """½ Σ_k Σ F_k (θ − θ*_k)² and its gradient, by parameter name."""
    at = {name: weight.double().requires_grad_() for name, weight in weights.items()}
    total = sum((0.5 * f[n].double() * (at[n] - a[n].double()) ** 2).sum() for a, f in terms for n in at)
    return total.item(), dict(zip(at, torch.autograd.grad(total, list(at.values())), strict=True))


def the_sum(terms):
    """The same as one penalty, as a method builds it up."""
    penalty = QuadraticPenalty.flat(terms[0][0], *ALL)
    for anchor, fisher in terms:
        penalty = penalty.recentre(anchor).plus(fisher)
    return penalty


def assert_is(penalty, weights, value, gradients):
    assert penalty.at(weights) == pytest.approx(value, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(penalty.gradient(name, weights[name]).double(), gradient, rtol=1e-4, atol=1e-5)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_sum_of_penalties_is_one_penalty(tasks):
    sum_of, weights = terms(tasks), drawn(7)
    assert_is(the_sum(sum_of), weights, *written_out(sum_of, weights))


def test_recentre_changes_the_anchor_and_not_the_function():
    before, elsewhere, weights = the_sum(terms()), drawn(8), drawn(9)
    after = before.recentre(elsewhere)
    assert same(after.anchor, elsewhere)
    assert_is(
        after, weights, before.at(weights), {name: before.gradient(name, w).double() for name, w in weights.items()}
    )


def test_reset_keeps_the_fisher_and_moves_the_minimum_to_these_weights():
    before, minimum, weights = the_sum(terms()), drawn(8), drawn(9)
    after = before.reset(minimum)
    assert after.at(minimum) == after.height == 0.0
    assert not any(after.gradient(name, weight).any() for name, weight in minimum.items())
    assert_is(after, weights, *written_out([(minimum, before.fisher)], weights))


def test_plus_keeps_a_share_of_the_earlier_fisher():
    (anchor, first), (_, second) = terms(2)
    found = QuadraticPenalty(anchor, first).plus(second, keep=0.25)
    weights = drawn(7)
    assert_is(found, weights, *written_out([(anchor, {n: 0.25 * first[n] + second[n] for n in first})], weights))


def test_penalty_without_fisher_is_equal_for_all_weights():
    anchor, weights = drawn(1), drawn(2)
    found = QuadraticPenalty().reset(anchor)
    assert_is(found, weights, *written_out([(anchor, {n: torch.ones_like(w) for n, w in anchor.items()})], weights))
    with pytest.raises(ValueError, match="has no Fisher"):
        found.plus(a_fisher(3))


def test_penalties_are_immutable():
    """A new penalty leaves its source and arguments unchanged, and later changes of the weights do not affect it."""
    before, weights, fisher = the_sum(terms()), drawn(8), a_fisher(9)
    tensors, given = before.tensors(), {name: w.clone() for name, w in weights.items()}
    made = before.recentre(weights).plus(fisher), before.reset(weights)
    made[0].gradient("weight", weights["weight"]).add_(1.0)
    before.at(weights)
    assert same(before.tensors(), tensors)
    assert same(weights, given)
    assert same(fisher, a_fisher(9))
    for weight in weights.values():
        weight.add_(1.0)
    assert all(same(penalty.anchor, given) for penalty in made)


@pytest.mark.parametrize("kinds", [ALL, ("fisher", "anchor"), ("anchor",)])
def test_penalty_round_trips_through_a_file(kinds):
    flat = QuadraticPenalty.flat(drawn(0), *kinds)
    assert set(flat.tensors()) == {f"{name}.{kind}" for name in SHAPES for kind in kinds}
    assert not any(tensor.any() for tensor in flat.tensors().values())
    full = QuadraticPenalty(
        *(drawn(k) if kind in kinds else None for k, kind in enumerate(("anchor", "fisher", "slope"))), 2.5
    )
    loaded = QuadraticPenalty.from_saved(load(save(full.tensors())), *kinds, height=2.5)
    assert same(loaded.tensors(), full.tensors())
    weights = drawn(7)
    assert loaded.at(weights) == full.at(weights)
    assert all(torch.equal(loaded.gradient(name, w), full.gradient(name, w)) for name, w in weights.items())


def test_fitted_takes_the_networks_layout_and_refuses_another_network():
    before = the_sum(terms())
    parameters = {n: torch.nn.Parameter(w) for n, w in drawn(5).items()}
    parameters["conv"] = torch.nn.Parameter(drawn(5)["conv"].to(memory_format=torch.channels_last))
    after = before.fitted(parameters)
    assert after.height == before.height
    assert same(after.tensors(), before.tensors())
    for kept in (after.fisher, after.anchor, after.slope):
        assert kept["conv"].stride() == parameters["conv"].stride() != before.fisher["conv"].stride()
        assert not kept["conv"].requires_grad
    with pytest.raises(ValueError, match=r"the saved state has no 'more\.fisher'"):
        before.fitted(parameters | {"more": torch.zeros(2)})
    lacking = QuadraticPenalty(before.anchor, before.fisher, {"weight": before.slope["weight"]})
    with pytest.raises(ValueError, match=r"the saved state has no 'bias\.slope'"):
        lacking.fitted(parameters)
    with pytest.raises(ValueError, match=r"state for 'weight\.slope', expected only fisher, anchor: .* another method"):
        QuadraticPenalty.from_saved(before.tensors(), "fisher", "anchor")
