"""Rollout collection and update, compared with stable-baselines3's over the same games."""

import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from torch.nn.utils import clip_grad_norm_

from blip_rl.learner.adam import clipped_step
from blip_rl.methods.base import Method
from tests.learner.small_agents import ENVIRONMENTS, Pixels, agent, cartpole, learn, vectorised, weights
from tests.learner.small_agents import PPO as NUMBERS

KINDS = ENVIRONMENTS | {"truncated": lambda: vectorised(lambda: TimeLimit(Pixels(), 7))}


def as_stable_baselines(model):
    """The same agent with stable-baselines3's rollout collection and update."""
    model.rollout_buffer = RolloutBuffer(
        model.n_steps,
        model.observation_space,
        model.action_space,
        device=model.device,
        gamma=model.gamma,
        gae_lambda=model.gae_lambda,
        n_envs=model.n_envs,
    )
    model.collect_rollouts = lambda *a, **k: PPO.collect_rollouts(model, *a, **k)
    model.train = lambda: PPO.train(model)
    return model


@pytest.mark.parametrize("modulation", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_those_of_stable_baselines3(kind, modulation):
    ours = agent(env=KINDS[kind](), modulation=modulation, max_gradient_norm=0.05)
    theirs = as_stable_baselines(agent(env=KINDS[kind](), modulation=modulation, max_gradient_norm=0.05))
    start = weights(ours.policy)
    assert all(torch.equal(value, weights(theirs.policy)[name]) for name, value in start.items())
    for model in (ours, theirs):
        model.set_random_seed(5)
        learn(model, 3)
    for name, value in weights(theirs.policy).items():
        moved = (value - start[name]).abs().max()
        assert (weights(ours.policy)[name] - value).abs().max() <= 1e-4 * moved + 1e-7, name


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_and_minibatches_equal_those_of_stable_baselines3(kind):
    ours, theirs = agent(env=KINDS[kind]()), as_stable_baselines(agent(env=KINDS[kind]()))
    for model in (ours, theirs):
        model.train = lambda: None
        model.set_random_seed(5)
        learn(model, 2)
    np.random.seed(3)  # noqa: NPY002  what both draw from
    expected = list(theirs.rollout_buffer.get(10))
    np.random.seed(3)  # noqa: NPY002  what both draw from
    found = list(ours.rollout_buffer.minibatches(10))
    assert len(found) == len(expected) == 4
    for mine, plain in zip(found, expected, strict=True):
        assert torch.equal(mine.observations.float(), plain.observations.float())
        assert torch.equal(mine.actions.float(), plain.actions.reshape(mine.actions.shape))
        torch.testing.assert_close(mine.log_probs, plain.old_log_prob)
        torch.testing.assert_close(mine.values, plain.old_values)
        torch.testing.assert_close(mine.advantages, plain.advantages, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.returns, plain.returns, rtol=1e-5, atol=1e-6)


def test_frames_of_minibatches_are_bytes_with_channels_last():
    model = agent(env=vectorised(lambda: Pixels((4, 36, 36))))
    with pytest.raises(RuntimeError, match="0 of 16 steps collected"):
        next(model.rollout_buffer.minibatches(8))
    learn(model, 1)
    batch = next(model.rollout_buffer.minibatches(8))
    assert batch.observations.dtype == torch.uint8
    assert batch.observations.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_clipping_in_the_optimizer_equals_clip_grad_norm(limit):
    ours, theirs = agent(), agent()
    for model in (ours, theirs):
        for index, parameter in enumerate(model.policy.parameters()):
            parameter.grad = torch.full_like(parameter, 0.01 * (index + 1))
    clipped_step(ours.policy.optimizer, limit)
    clip_grad_norm_(theirs.policy.parameters(), limit)
    theirs.policy.optimizer.step()
    for name, value in weights(theirs.policy).items():
        torch.testing.assert_close(weights(ours.policy)[name], value, rtol=1e-6, atol=1e-8)


class Pull(Method):
    """Adds a loss that pulls the values of the first task to 0."""

    def __init__(self):
        super().__init__()
        self.calls, self.progress = 0, []

    def at_progress(self, done):
        self.progress.append(done)

    def loss(self, outputs):
        self.calls += 1
        distribution, values = outputs(1, torch.zeros(3, 4))
        assert values.shape == (3,)
        assert distribution.probs.shape == (3, 2)
        return 1e3 * values.square().mean()


def test_a_methods_loss_is_added_and_it_is_told_the_progress():
    model = learn(agent(), 1)
    model.switch_task("b", cartpole(mix=2))
    first = weights(model.policy.tasks[0])
    zeros = torch.zeros(1, 4)

    # At zeros the value of the first task depends on the biases of the trunk, which have been learned.
    before, method = model.policy.outputs_of(1, zeros)[1].item(), Pull()
    assert abs(before) > 1e-3
    with model.protected_by(method):
        learn(model, 4)
    assert abs(model.policy.outputs_of(1, zeros)[1].item()) < abs(before) / 4
    assert method.progress == [0.25, 0.5, 0.75, 1.0]
    assert method.calls == 4 * NUMBERS["epochs"] * NUMBERS["minibatches"]
    # The module of the first task is frozen.
    assert all(torch.equal(value, weights(model.policy.tasks[0])[name]) for name, value in first.items())
    assert type(model.method) is Method
