"""Eq. 3 and 4 against an oracle that keeps the float weights θ beside the quantised ones."""

import pytest
import torch
from torch.func import functional_call

from blip_rl.core import bits
from blip_rl.methods.attach import attached
from blip_rl.methods.blip import Blip
from tests.methods.small_tasks import bounds, copies, inside, mlp, on_grid, three_tasks


class Shadow:
    """θ in full precision: the network runs with Q(θ̂, N)·b, Adam steps on θ, and θ is clipped to its interval."""

    def __init__(self, trunk, total_bits, quantize):
        self.trunk, self.total_bits, self.quantize, self.bound = trunk, total_bits, quantize, bounds(trunk)
        self.theta = {name: value.requires_grad_() for name, value in copies(trunk).items()}

    def start_task(self, intervals):
        self.intervals = intervals
        self.adam = torch.optim.Adam(self.theta.values(), lr=0.01)
        self.clip()

    def clip(self):
        with torch.no_grad():
            for name, value in self.theta.items():
                value.copy_(torch.minimum(torch.maximum(value, self.intervals[name][0]), self.intervals[name][1]))

    def seen(self):
        """The weights of the forward pass."""
        if not self.quantize:
            return {name: value.detach().clone() for name, value in self.theta.items()}
        n = self.total_bits
        return {name: bits.quantize(value.detach(), n, self.bound[name]) for name, value in self.theta.items()}

    def step(self, loss):
        weights = {name: value.requires_grad_() for name, value in self.seen().items()}
        gradients = torch.autograd.grad(loss(lambda x: functional_call(self.trunk, weights, x)), list(weights.values()))
        for value, gradient in zip(self.theta.values(), gradients, strict=True):
            value.grad = gradient
        self.adam.step()
        self.clip()


def in_double(task):
    task.head.double()
    task.observations = task.observations.double()
    return task


def remainder(blip, name):
    return blip.state().tensors[f"{name}.remainder"]


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("total_bits", [4, 8, 20])
def test_training_equals_the_oracle_with_float_weights(total_bits, quantize):
    """Three tasks, so with intervals that bind; in float64, where adding and subtracting the remainder is harmless."""
    trunk = mlp().double()
    blip = Blip(fisher_prior=1e-3, total_bits=total_bits, quantize_forward=quantize)
    shadow = Shadow(mlp().double(), total_bits, quantize)
    shadow.theta = {name: value.requires_grad_() for name, value in copies(trunk).items()}
    for task in map(in_double, three_tasks("mlp")):
        task.head.requires_grad_(False)  # only the trunk learns: both see the same head
        adam = torch.optim.Adam(trunk.parameters(), lr=0.01)
        with attached(blip, trunk, adam):
            shadow.start_task(blip.intervals())
            for _ in range(60):
                adam.zero_grad()
                task.loss(trunk).backward()
                adam.step()
                shadow.step(task.loss)
                for name, seen in shadow.seen().items():
                    weight, theta = copies(trunk)[name], shadow.theta[name].detach()
                    torch.testing.assert_close(weight, seen, rtol=1e-12, atol=1e-12)
                    torch.testing.assert_close(weight + remainder(blip, name), theta, rtol=1e-10, atol=1e-10)
            blip.end_task(task.finished(trunk))


def test_few_bits_make_the_difference_between_weights_and_what_the_network_sees():
    """With 4 bits a step of the optimizer is a hundredth of the grid: without remainders nothing would ever move."""
    trunk, task = mlp(), three_tasks("mlp")[0]
    blip = Blip(first_task_bits=1, total_bits=4)
    adam = torch.optim.Adam(trunk.parameters(), lr=0.001)
    with attached(blip, trunk, adam):
        start, loss = copies(trunk), task.loss(trunk).item()
        for _ in range(200):
            adam.zero_grad()
            task.loss(trunk).backward()
            adam.step()
            assert on_grid(trunk, 4)
    moved = {name: (value != start[name]).float().mean().item() for name, value in copies(trunk).items()}
    assert max(moved.values()) > 0.2
    assert task.loss(trunk).item() < loss
    step = {name: bound * 2.0**-4 for name, bound in bounds(trunk).items()}
    assert all((remainder(blip, name).abs() <= step[name] / 2 * (1 + 1e-6)).all() for name in step)
    assert any((remainder(blip, name).abs() > step[name] / 4).any() for name in step)


def test_plain_float_weights_are_clipped_and_never_rounded():
    trunk, task = mlp(), three_tasks("mlp")[0]
    blip = Blip(first_task_bits=1, total_bits=4, quantize_forward=False)
    adam = torch.optim.Adam(trunk.parameters(), lr=0.5)
    before = copies(trunk)
    with attached(blip, trunk, adam):
        assert all(torch.equal(value, before[name]) for name, value in copies(trunk).items())
        for _ in range(20):
            adam.zero_grad()
            task.loss(trunk).backward()
            adam.step()
            assert inside(trunk, blip.intervals().values())
    assert not on_grid(trunk, 4)
    assert not any(remainder(blip, name).any() for name in before)
    at_the_end = [(p == high).any() for p, (_, high) in zip(trunk.parameters(), blip.intervals().values(), strict=True)]
    assert any(at_the_end)
