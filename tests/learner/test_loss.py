"""PPO's loss against a loop over samples, and a whole update against the BLIP release."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from blip_rl.agent_config import PpoConfig
from blip_rl.learner.loss import ppo_loss
from blip_rl.learner.rollout import Minibatch
from tests.learner.small_agents import PPO, RELEASE_LOSSES, ROLLOUT, agent, learn, same, weights

SAMPLES = 40


def outputs_and_batch(seed=0):
    """Log-probabilities, entropies and values that need gradients, and a minibatch in which all limits bite."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn((7, SAMPLES), generator=generator, dtype=torch.float64)
    old_log_probs, old_values, returns, advantages = draws[0] - 2, draws[1], draws[2], draws[3] * 3 + 1
    outputs = old_log_probs + 0.3 * draws[4], draws[5].abs(), old_values + 0.3 * draws[6]
    batch = Minibatch(
        observations=torch.zeros(SAMPLES),
        actions=torch.zeros(SAMPLES),
        log_probs=old_log_probs,
        values=old_values,
        advantages=advantages,
        returns=returns,
    )
    return [output.clone().requires_grad_() for output in outputs], batch


def loss_of_samples(outputs, batch, ppo):
    """The same loss, sample by sample, as one would write it from the paper and the release."""
    advantages = batch.advantages
    if ppo.normalize_advantage == "minibatch":
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    total = torch.zeros((), dtype=torch.float64)
    for n, (log_prob, entropy, value) in enumerate(zip(*outputs, strict=True)):
        ratio, limit = torch.exp(log_prob - batch.log_probs[n]), ppo.clip_range
        limited_ratio = torch.clamp(ratio, 1 - limit, 1 + limit)
        error = (value - batch.returns[n]) ** 2
        if ppo.clip_range_value is not None:
            old, reach = batch.values[n], ppo.clip_range_value
            limited_error = (min(max(value, old - reach), old + reach) - batch.returns[n]) ** 2
            error = max(error, limited_error) if ppo.value_loss == "max" else limited_error
        total = total - min(ratio * advantages[n], limited_ratio * advantages[n])
        total = total - ppo.entropy_coefficient * entropy
        total = total + ppo.value_coefficient * ppo.value_loss_scale * error
    return total / SAMPLES


SETTINGS = [
    {"value_loss": kind, "clip_range_value": limit, "value_loss_scale": scale, "normalize_advantage": over}
    for kind, limit, scale, over in itertools.product(
        ("clipped", "max"), (0.1, None), (1.0, 0.5), ("minibatch", "rollout")
    )
    if not (kind == "max" and limit is None)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_loss_and_gradients_equal_those_of_a_loop_over_samples(settings):
    ppo = PpoConfig(**PPO | settings)
    (outputs, batch), (same_outputs, _) = outputs_and_batch(), outputs_and_batch()
    limits = {"clip_range": ppo.clip_range, "clip_range_value": ppo.clip_range_value}
    loss, _ = ppo_loss(*outputs, batch, ppo, **limits)
    expected = loss_of_samples(same_outputs, batch, ppo)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found = torch.autograd.grad(loss, outputs)
    for gradient, plain in zip(found, torch.autograd.grad(expected, same_outputs), strict=True):
        torch.testing.assert_close(gradient, plain, rtol=1e-10, atol=1e-14)


def test_the_logged_value_loss_includes_its_scale():
    outputs, batch = outputs_and_batch()
    limits = {"clip_range": 0.1, "clip_range_value": 0.1}
    whole, half = (
        ppo_loss(*outputs, batch, PpoConfig(**PPO, value_loss_scale=scale), **limits)[1].value_loss
        for scale in (1.0, 0.5)
    )
    assert half.item() == pytest.approx(whole.item() / 2, rel=1e-12)


# --- a whole update


def release_update(model):
    """RL/rl_module/ppo_blip.py, ``update``, in plain PyTorch over this agent's rollout and network."""
    rollout, policy = model.rollout_buffer, model.policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=model.lr_schedule(1.0), eps=PPO["adam_epsilon"])
    # Environment by environment, the order that numpy's permutation counts in.
    columns = (rollout.actions, rollout.log_probs, rollout.values, rollout.returns, rollout.advantages)
    actions, old_log_probs, old_values, returns, advantages = (t.transpose(0, 1).flatten(0, 1) for t in columns)
    observations = rollout.all_observations().view(16, 2, -1).transpose(0, 1).flatten(0, 1)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-5)
    for _ in range(PPO["epochs"]):
        order = torch.from_numpy(np.random.permutation(ROLLOUT))  # noqa: NPY002  what the rollout draws from
        for chosen in order.split(ROLLOUT // PPO["minibatches"]):
            values, log_probs, entropy = policy.evaluate_actions(observations[chosen], actions[chosen])
            values = values.flatten()
            ratio = torch.exp(log_probs - old_log_probs[chosen])
            surrogates = ratio * advantages[chosen], ratio.clamp(1 - 0.1, 1 + 0.1) * advantages[chosen]
            action_loss = -torch.min(*surrogates).mean()
            clipped = old_values[chosen] + (values - old_values[chosen]).clamp(-0.1, 0.1)
            errors = (values - returns[chosen]).pow(2), (clipped - returns[chosen]).pow(2)
            value_loss = 0.5 * torch.max(*errors).mean()
            optimizer.zero_grad()
            (value_loss * PPO["value_coefficient"] + action_loss - entropy.mean() * 0.01).backward()
            clip_grad_norm_(policy.parameters(), PPO["max_gradient_norm"])
            optimizer.step()


def updated(settings, update):
    """The weights before and after one update on the first rollout."""
    model = agent(**settings)
    model.set_random_seed(5)
    before, train = weights(model.policy), model.train
    model.train = (lambda: update(model)) if update else train
    learn(model, 1)
    return before, weights(model.policy)


def furthest(one, other):
    return max((one[name] - value).abs().max().item() for name, value in other.items())


def test_an_update_with_the_releases_settings_equals_the_releases_update():
    start, expected = updated({}, release_update)
    begun, found = updated(RELEASE_LOSSES, None)
    moved = furthest(expected, start)
    assert same(begun, start)
    assert furthest(found, expected) < 1e-4 * moved
    assert furthest(updated({}, None)[1], expected) > 1e-2 * moved, "the default settings are another update"
