"""Our Adam is torch's, to the bit, and leaves torch's compiler where it is."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from blip_rl.learner.optimizer import Adam


def trained(network, optimizer_class, steps=5):
    """The optimizer after some steps, and how often the hook behind each step was called."""
    optimizer = optimizer_class(network.parameters(), lr=1e-2, eps=1e-5, fused=True)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(4, 5, generator=draws)).square().sum().backward()
        optimizer.grad_scale = torch.tensor(1.5)
        optimizer.step()
    return optimizer, len(calls)


@pytest.mark.parametrize("torch_first", [True, False])
def test_it_is_torchs_adam_to_the_bit(torch_first):
    ours = nn.Linear(5, 3)
    theirs = copy.deepcopy(ours)
    order = [(theirs, torch.optim.Adam), (ours, Adam)]
    done = {kind: trained(network, kind) for network, kind in (order if torch_first else order[::-1])}
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    (mine, calls), (its, _) = done[Adam], done[torch.optim.Adam]
    assert calls == 5
    for a, b in zip(mine.state_dict()["state"].values(), its.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_saved_state_goes_on_as_if_it_had_not_been_saved():
    network = nn.Linear(5, 3)
    optimizer, _ = trained(network, Adam)
    other = copy.deepcopy(network)
    taken = Adam(other.parameters(), lr=1e-2, eps=1e-5, fused=True)
    taken.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameters, its in ((network.parameters(), optimizer), (other.parameters(), taken)):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        its.grad_scale = None
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_an_update_imports_no_compiler():
    code = (
        "import sys, torch; from blip_rl.learner.optimizer import Adam\n"
        "weight = torch.nn.Parameter(torch.ones(3)); adam = Adam([weight], fused=True)\n"
        "weight.sum().backward(); adam.step(); adam.zero_grad(); adam.load_state_dict(adam.state_dict())\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
