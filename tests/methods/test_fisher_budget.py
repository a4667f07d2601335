import pytest
import torch
from torch import nn

from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask
from blip_rl.methods.fisher_budget import FisherBudget


def task(trunk, seed):
    generator = torch.Generator().manual_seed(seed)
    return FinishedTask(trunk, lambda x: x, torch.randn(64, 4, generator=generator), lambda x: x, generator)


def learn(trunk, method, seed, steps=40):
    """Take steps towards a random target, whatever the method."""
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.3)
    generator = torch.Generator().manual_seed(seed)
    inputs, target = torch.randn(64, 4, generator=generator), torch.randn(64, 3, generator=generator)
    largest = 0.0
    with attached(method, trunk, optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            (trunk(inputs) - target).square().mean().backward()
            optimizer.step()
            if method.tasks_seen:
                weights = {name: parameter.detach() for name, parameter in trunk.named_parameters()}
                largest = max(largest, method._penalty.at(weights))
    return largest


@pytest.mark.parametrize("budget", [1e-4, 1e-2])
def test_no_task_moves_the_weights_beyond_the_budget(budget):
    torch.manual_seed(0)
    trunk, method = nn.Linear(4, 3), FisherBudget(budget=budget, fisher_expectation="exact")
    learn(trunk, method, 1)
    method.start_task(trunk)
    method.end_task(task(trunk, 2))
    before = [parameter.clone() for parameter in trunk.parameters()]
    assert learn(trunk, method, 3) == pytest.approx(budget, rel=1e-3)
    assert any(not a.equal(b) for a, b in zip(before, trunk.parameters(), strict=True))
    metrics = method.end_task(task(trunk, 4))
    assert metrics["spent"] == pytest.approx(budget, rel=1e-3)
    assert learn(trunk, method, 5) <= budget * 1.001


def test_a_larger_budget_learns_more():
    losses = []
    for budget in (1e-5, 1e-3, 1e3):
        torch.manual_seed(0)
        trunk, method = nn.Linear(4, 3), FisherBudget(budget=budget, fisher_expectation="exact")
        method.start_task(trunk)
        method.end_task(task(trunk, 2))
        learn(trunk, method, 3)
        generator = torch.Generator().manual_seed(3)
        inputs, target = torch.randn(64, 4, generator=generator), torch.randn(64, 3, generator=generator)
        losses.append((trunk(inputs) - target).square().mean().item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 1.05 * losses[2]
