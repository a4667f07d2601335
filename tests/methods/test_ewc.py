"""EWC, online EWC and L2 against their penalty written out, task by task, with its gradient from autograd."""

import pytest
import torch
from torch import nn

from blip_rl.core.fisher import diagonal_fisher
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.ewc import Ewc
from blip_rl.methods.ewc_online import EwcOnline
from blip_rl.methods.l2 import L2
from tests.methods.small_tasks import TRUNKS, Task, copies, learn, mlp, three_tasks

trunks = pytest.mark.parametrize("name", TRUNKS)
kinds = pytest.mark.parametrize("kind", [Ewc, EwcOnline, L2])
EXACT = {"fisher_expectation": "exact"}  # so that the oracle's Fisher is the method's


def build(kind, strength, **settings):
    return kind(strength=strength, **({} if kind is L2 else EXACT), **settings)


def penalty(kind, trunk, anchors, strength, gamma=1.0):
    """The publications' penalty, one anchor and one Fisher for each task, in float64."""
    if kind is L2:  # a Fisher of 1 everywhere, and the newest anchor alone
        anchors = [(anchors[-1][0], {name: torch.ones_like(p) for name, p in trunk.named_parameters()})]
    total, tasks = torch.zeros((), dtype=torch.float64), len(anchors)
    for k, (anchor, fisher) in enumerate(anchors):
        for name, parameter in trunk.named_parameters():
            centre = anchor if kind is Ewc else anchors[-1][0]
            decay = 1.0 if kind is Ewc else gamma ** (tasks - 1 - k)
            total = total + (decay * fisher[name].double() * (parameter.double() - centre[name].double()) ** 2).sum()
    return 0.5 * strength * total


def learn_three(method, name, steps=25, reverse_logits=False):
    """Three tasks and what the oracle remembers of each: weights and Fisher."""
    trunk, anchors = TRUNKS[name][0](), []
    for task in three_tasks(name):
        learn(method, trunk, task, steps)
        fisher = diagonal_fisher(
            trunk, task.head, task.observations, expectation="exact", reverse_logits=reverse_logits
        )
        anchors.append((copies(trunk), fisher))
    return trunk, anchors


def moved(trunk, distance):
    """A trunk away from its anchors, so that the penalty has a gradient."""
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=distance)
    return trunk


def added_gradients(method, trunk):
    """What the method adds to gradients of zero."""
    for parameter in trunk.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.start_task(trunk)
    for name, parameter in trunk.named_parameters():
        method.add_gradient(name, parameter)
    return {name: parameter.grad for name, parameter in trunk.named_parameters()}


def remember(method, trunk, fisher):
    """End a task whose Fisher is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FinishedTask, "fisher", lambda *_: {name: value.clone() for name, value in fisher.items()})
        nothing = torch.empty(0)
        method.end_task(FinishedTask(trunk, nn.Identity(), nothing, nn.Identity(), torch.Generator()))


def assert_gradients_are(found, trunk, expected_penalty, tolerance):
    """Errors in units of the parameter's largest entry."""
    expected = torch.autograd.grad(expected_penalty, list(trunk.parameters()))
    for name, value in zip(found, expected, strict=True):
        assert value.abs().max() > 0
        torch.testing.assert_close(found[name], value.float(), rtol=0, atol=tolerance * value.abs().max().item())


# --- the gradient


@trunks
@kinds
@pytest.mark.parametrize("distance", [0.1, 1e-3])
def test_gradient_equals_that_of_the_penalty_written_out(name, kind, distance):
    """float32 carries 6e-8; the tolerance leaves room for the differences of nearly equal weights."""
    method = build(kind, 30.0)
    trunk, anchors = learn_three(method, name)
    found = added_gradients(method, moved(trunk, distance))
    assert_gradients_are(found, trunk, penalty(kind, trunk, anchors, 30.0), 1e-5)


@pytest.mark.parametrize("kind", [Ewc, EwcOnline])
def test_reversed_importance_takes_the_place_of_the_fisher(kind):
    method = build(kind, 30.0, importance="reversed")
    trunk, anchors = learn_three(method, "mlp", reverse_logits=True)
    found = added_gradients(method, moved(trunk, 0.1))
    assert_gradients_are(found, trunk, penalty(kind, trunk, anchors, 30.0), 1e-5)


@pytest.mark.parametrize("distance", [0.1, 1e-2, 1e-3, 1e-4])
def test_twenty_nearby_anchors_lose_no_precision(distance):
    """Where sums such as F·θ − Σ F_k θ*_k cancel: weights of 0.3 whose anchors are ``distance`` apart."""
    generator = torch.Generator().manual_seed(0)
    trunk, method, anchors = nn.Linear(40, 50), Ewc(strength=1.0), []
    start, fisher = copies(trunk), {}
    for _ in range(20):
        for name, parameter in trunk.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = start[name] + distance * noise
            fisher[name] = torch.exp(3 * torch.randn(parameter.shape, generator=generator) - 6)
        remember(method, trunk, fisher)
        anchors.append((copies(trunk), dict(fisher)))
    found = added_gradients(method, moved(trunk, distance))
    assert_gradients_are(found, trunk, penalty(Ewc, trunk, anchors, 1.0), 3e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_gamma_discounts_earlier_fishers(gamma):
    method = EwcOnline(strength=2.0, gamma=gamma, **EXACT)
    trunk, anchors = learn_three(method, "mlp")
    found = added_gradients(method, moved(trunk, 0.1))
    assert_gradients_are(found, trunk, penalty(EwcOnline, trunk, anchors, 2.0, gamma), 1e-5)


def test_weights_without_fisher_are_free_and_their_state_is_finite():
    """Observations of zero say nothing about the first layer's weights: Fisher 0, and 0/0 must not appear."""
    method, trunk = Ewc(strength=10.0), mlp()
    for seed in (1, 2):
        learn(method, trunk, Task((5,), seed=seed, scale=0.0), steps=3)
    found = added_gradients(method, moved(trunk, 0.1))
    assert not found["0.weight"].any()
    assert found["0.bias"].any()
    assert all(torch.isfinite(tensor).all() for tensor in method.state().tensors.values())


@kinds
def test_strength_of_zero_equals_fine_tuning(kind):
    weights = []
    for method in (kind(strength=0.0), kind(strength=50.0)):
        torch.manual_seed(0)
        trunk = mlp()
        for task in three_tasks("mlp"):
            learn(method, trunk, task, steps=5)
        weights.append(copies(trunk))
    torch.manual_seed(0)
    plain = mlp()
    for task in three_tasks("mlp"):
        optimizer = torch.optim.Adam([*plain.parameters(), *task.head.parameters()], lr=0.02)
        for _ in range(5):
            optimizer.zero_grad()
            task.loss(plain).backward()
            optimizer.step()
    assert all(torch.equal(value, weights[0][name]) for name, value in copies(plain).items())
    assert not torch.equal(weights[0]["0.weight"], weights[1]["0.weight"])


# --- metrics


@kinds
def test_metrics_are_the_penalty_at_the_end_and_the_mean_fisher(kind):
    method, trunk = build(kind, 5.0), mlp()
    first, second, _ = three_tasks("mlp")
    third = Task((5,), seed=3)
    figures = learn(method, trunk, first)
    fisher = diagonal_fisher(trunk, first.head, first.observations, expectation="exact")
    mean = torch.cat([f.flatten() for f in fisher.values()]).mean().item()
    assert figures == {"penalty": 0.0} | ({} if kind is L2 else {"mean_fisher": pytest.approx(mean)})
    anchors = [(copies(trunk), fisher)]
    for task in (second, third):
        figures = learn(method, trunk, task)
        assert figures["penalty"] == pytest.approx(penalty(kind, trunk, anchors, 5.0).item(), rel=1e-4)
        anchors.append((copies(trunk), diagonal_fisher(trunk, task.head, task.observations, expectation="exact")))
