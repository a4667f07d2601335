"""Divergence: the first non-finite value is named, with task and step, at the update in which it appears."""

import math

import pytest
import torch

from blip_rl.learner import ppo
from blip_rl.learner.diagnostics import UpdateMetrics
from blip_rl.learner.loss import LossMetrics
from blip_rl.methods.base import Method
from tests.learner.small_agents import ROLLOUT, agent, cartpole, learn


class Exploding(Method):
    def __init__(self, loss=None, gradient=None, step=None):
        super().__init__()
        self._loss, self._gradient, self._step = loss, gradient, step

    def start_task(self, trunk):
        self.weight = trunk.fc2.weight

    def loss(self, outputs):
        return None if self._loss is None else self.weight.sum() * 0 + self._loss

    def after_step(self):
        if self._step is not None:
            with torch.no_grad():
                self.weight[0, 0] = self._step


class ExplodingGradient(Exploding):
    def add_gradient(self, name, parameter):
        if name == "fc1.weight":
            parameter.grad[0, 0] = self._gradient


def diverging(method):
    model = agent(env=cartpole())
    model.switch_task("second", cartpole(mix=2))
    with model.protected_by(method), pytest.raises(FloatingPointError) as caught:
        learn(model, 3)
    assert model.num_timesteps == ROLLOUT, "found at the first update"
    return str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda bad: Exploding(loss=bad), "the method's loss is not a finite number"),
        (lambda bad: ExplodingGradient(gradient=bad), "the gradient's norm is not a finite number"),
    ],
)
def test_the_first_bad_number_is_named(build, wanted, bad):
    message = diverging(build(bad))
    assert wanted in message
    assert f"learning second at step {ROLLOUT}" in message


def test_a_bad_weight_is_named(monkeypatch):
    """Set after the last step of the update, so that no loss has seen it."""
    model = agent(env=cartpole())
    end, calls = ppo.ContinualPPO._update, []

    def update(self, batch):
        calls.append(None)
        figures = end(self, batch)
        if len(calls) == 4:
            with torch.no_grad():
                self.policy.trunk.fc2.bias[3] = math.nan
        return figures

    monkeypatch.setattr(ppo.ContinualPPO, "_update", update)
    with pytest.raises(FloatingPointError, match=r"the weight '.*fc2\.bias' is not a finite number, learning a at"):
        learn(model, 2)
    assert len(calls) == 4


def test_a_bad_reward_shows_in_the_losses():
    model = agent(env=cartpole())
    step = model.env.step_wait
    model.env.step_wait = lambda: (lambda o, r, d, i: (o, r * math.nan, d, i))(*step())
    with pytest.raises(FloatingPointError, match="the policy gradient loss is not a finite number, learning a at step"):
        learn(model, 2)


def test_an_infinite_divergence_alone_is_no_reason_to_stop():
    """approx_kl of a ratio that is clipped: only a figure to look at."""
    model = agent(env=cartpole())
    zero, endless = torch.zeros(()), torch.tensor(math.inf)
    losses = LossMetrics(zero, zero, zero, endless, zero, zero)
    model._check_finite([UpdateMetrics(losses, None, torch.ones(()))])
    with pytest.raises(FloatingPointError, match="gradient's norm"):
        model._check_finite([UpdateMetrics(losses, None, endless)])
