"""Hooks: every optimizer step and every gradient reaches the method while it is attached, and none afterwards."""

import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

from blip_rl.methods.attach import attached
from blip_rl.methods.base import Method
from blip_rl.methods.blip import Blip
from blip_rl.sb3.protect import protect
from tests.methods.small_tasks import Task, learn, mlp


class Spy(Method):
    """Records all hook calls, and replaces every gradient with a large one."""

    def __init__(self, gradient=None):
        super().__init__()
        self.events, self.gradient = [], gradient

    def start_task(self, trunk):
        self.events.append("start")

    def add_gradient(self, name, parameter):
        self.events.append(name)
        if self.gradient is not None:
            parameter.grad.fill_(self.gradient)

    def after_step(self):
        self.events.append("step")

    def end_task(self, finished):
        self.events.append("end")
        return {}


def train_once(trunk, optimizer):
    optimizer.zero_grad()
    trunk(torch.ones(2, 5)).square().sum().backward()
    optimizer.step()


def test_gradients_come_before_the_step_and_the_step_before_the_end():
    spy = Spy()
    learn(spy, mlp(), Task((5,), seed=1), steps=2)
    assert spy.events[0] == "start"
    assert spy.events[-1] == "end"
    for first in (1, 6):
        assert sorted(spy.events[first : first + 4]) == ["0.bias", "0.weight", "2.bias", "2.weight"]
        assert spy.events[first + 4] == "step"
    assert len(spy.events) == 12


def test_only_the_trunks_gradients_are_shown():
    spy, trunk, head = Spy(), mlp(), nn.Linear(8, 2)
    optimizer = torch.optim.SGD([*trunk.parameters(), *head.parameters()], lr=0.1)
    with attached(spy, trunk, optimizer):
        head(trunk(torch.ones(1, 5))).sum().backward()
    assert sorted(spy.events) == ["0.bias", "0.weight", "2.bias", "2.weight", "start"]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_attached_afterwards_also_after_an_error(fails):
    spy, trunk = Spy(), mlp()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    try:
        with attached(spy, trunk, optimizer):
            train_once(trunk, optimizer)
            if fails:
                raise KeyError("while learning")
    except KeyError:
        assert fails
    seen = list(spy.events)
    train_once(trunk, optimizer)
    assert spy.events == seen
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in trunk.parameters())


def test_blip_lets_go_of_a_trunk_after_an_error():
    blip, trunk = Blip(first_task_bits=4), mlp()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    with pytest.raises(KeyError), attached(blip, trunk, optimizer):
        raise KeyError("while learning")
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.fill_(100.0)
    before = [parameter.clone() for parameter in trunk.parameters()]
    optimizer.step()  # no gradients: a method still attached would clip
    assert all(torch.equal(p, b) for p, b in zip(trunk.parameters(), before, strict=True))


def test_a_failing_start_attaches_nothing():
    trunk = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    with pytest.raises(TypeError), attached(Blip(first_task_bits=4), trunk, optimizer):
        pass
    assert not optimizer._optimizer_step_post_hooks


def test_gradients_are_changed_before_stable_baselines3_clips_their_norm():
    """If the method came after the clipping, the optimizer would see a norm of thousands."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    norms = []

    def record(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in gradients]).norm().item())

    handle = model.policy.optimizer.register_step_pre_hook(record)
    spy = Spy(gradient=1000.0)
    with protect(model, spy):
        model.learn(64)
    handle.remove()
    assert spy.events.count("step") == len(norms) == 2
    assert "action_net.weight" in spy.events
    assert norms == pytest.approx([0.5, 0.5], rel=1e-3)  # PPO's max_grad_norm
