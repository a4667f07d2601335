"""Divergence: the first non-finite value is named, with task and step, at the update in which it appears."""

import math

import pytest
import torch

from blip_rl.learner import ppo
from blip_rl.learner.diagnostics import UpdateMetrics
from blip_rl.learner.loss import LossMetrics
from blip_rl.methods.base import Method
from blip_rl.methods.finetune import Finetune
from tests.learner.emulated_graphs import emulate_cuda_graphs
from tests.learner.small_agents import ROLLOUT, agent, cartpole, learn


class NonFiniteLoss(Method):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def start_task(self, trunk):
        self.weight = trunk.fc2.weight

    def loss(self, outputs):
        return self.weight.sum() * 0 + self.value


class NonFiniteGradient(NonFiniteLoss):
    def loss(self, outputs):
        return None

    def add_gradient(self, name, parameter):
        if name == "fc1.weight":
            parameter.grad[0, 0] = self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("method", "name"), [(NonFiniteLoss, "method's loss"), (NonFiniteGradient, "gradient's norm")])
def test_the_first_non_finite_value_is_named_at_the_first_update(method, name, value):
    model = agent(env=cartpole())
    model.switch_task("second", cartpole(mix=2))
    message = f"the {name} is not a finite number, learning second at step {ROLLOUT}"
    with model.protected_by(method(value)), pytest.raises(FloatingPointError, match=message):
        learn(model, 3)
    assert model.num_timesteps == ROLLOUT


def test_a_non_finite_weight_is_named(monkeypatch):
    """Set after the last step of the update, so that it is in no loss."""
    model = agent(env=cartpole())
    end, calls = ppo.ContinualPPO._update, []

    def update(self, batch):
        calls.append(None)
        metrics = end(self, batch)
        if len(calls) == 4:
            with torch.no_grad():
                self.policy.trunk.fc2.bias[3] = math.nan
        return metrics

    monkeypatch.setattr(ppo.ContinualPPO, "_update", update)
    with pytest.raises(FloatingPointError, match=r"the weight '.*fc2\.bias' is not a finite number, learning a at"):
        learn(model, 2)
    assert len(calls) == 4


@pytest.mark.parametrize("captured", [False, True])
def test_a_non_finite_reward_is_found_in_the_losses(captured, monkeypatch):
    if captured:
        emulate_cuda_graphs(monkeypatch, actions=False)
    model = agent(env=cartpole())
    with model.protected_by(Finetune()):  # the base class may not be captured
        learn(model, 3)
        assert (model._captured is not None) == captured
        step = model.env.step_wait
        model.env.step_wait = lambda: (lambda o, r, d, i: (o, r * math.nan, d, i))(*step())
        message = "the policy gradient loss is not a finite number, learning a at step"
        with pytest.raises(FloatingPointError, match=message):
            learn(model, 1)


def test_an_infinite_approx_kl_does_not_raise():
    """It is only logged: the ratios behind it are clipped in the loss."""
    model = agent(env=cartpole())
    zero, infinite = torch.zeros(()), torch.tensor(math.inf)
    losses = LossMetrics(zero, zero, zero, infinite, zero, zero)
    model._check_finite([UpdateMetrics(losses, None, torch.ones(()))])
    with pytest.raises(FloatingPointError, match="gradient's norm"):
        model._check_finite([UpdateMetrics(losses, None, infinite)])
