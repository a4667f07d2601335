"""A sequence of tasks on one agent: state that continues, is reset, or is frozen at a task switch."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch.distributions import Normal

from blip_rl.errors import UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.methods.attach import attached
from blip_rl.methods.blip import Blip
from blip_rl.methods.clear import Clear
from blip_rl.methods.packnet import Packnet
from blip_rl.tasks.control import make_control_env
from tests.learner.small_agents import (
    PPO,
    ROLLOUT,
    Lines,
    Pixels,
    agent,
    agent_config,
    cartpole,
    learn,
    same,
    vectorised,
    weights,
)


def learning_rates(model, steps):
    """Learning rate of every update of one call of ``learn``, as a share of the recipe's."""
    rates, train = [], model.train
    model.train = lambda: (train(), rates.append(model.policy.optimizer.param_groups[0]["lr"] / PPO["learning_rate"]))
    model.learn(steps, reset_num_timesteps=False)
    model.train = train
    return rates


# --- switching tasks


def test_switching_tasks_keeps_the_trunk_and_creates_a_new_optimizer():
    model = learn(agent())
    policy, trunk, optimizer = model.policy, model.policy.trunk, model.policy.optimizer
    parameters = [id(parameter) for parameter in trunk.parameters()]
    assert optimizer.state
    model.switch_task("b", cartpole(mix=2))
    assert model.policy is policy
    assert policy.trunk is trunk
    assert [id(parameter) for parameter in trunk.parameters()] == parameters
    assert policy.optimizer is not optimizer
    assert not policy.optimizer.state
    held = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in [*trunk.parameters(), *policy.tasks[1].parameters()]}
    assert policy.optimizer.param_groups[0]["eps"] == PPO["adam_epsilon"]


@pytest.mark.parametrize("modulation", [True, False])
def test_learning_a_task_leaves_other_task_modules_unchanged(modulation):
    model = learn(agent(modulation=modulation))
    model.switch_task("b", cartpole(mix=2))
    first, second, trunk = (weights(m) for m in (*model.policy.tasks, model.policy.trunk))
    learn(model)
    assert same(weights(model.policy.tasks[0]), first)
    after = weights(model.policy.tasks[1])
    assert not any(torch.equal(value, after[name]) for name, value in second.items())
    assert not same(weights(model.policy.trunk), trunk)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"retrain_schedule": "task"}, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ({"retrain_schedule": "own"}, [1, 0.75, 0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"retrain_schedule": "own", "retrain_share": 0.0}, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ],
)
def test_packnets_retraining_may_have_its_own_learning_rate_schedule(settings, expected):
    model = agent()
    with model.protected_by(Packnet(tasks=2, **{"retrain_share": 0.5} | settings)):
        assert learning_rates(model, 8 * ROLLOUT) == pytest.approx(expected, rel=1e-9)


def test_learning_rates_restart_in_every_task_while_steps_are_counted_on():
    model = agent()
    for task, mix, steps in (("a", 1, 0), ("b", 2, 4), ("a", 1, 8)):
        head = weights(model.policy.tasks[0])
        if steps:
            model.switch_task(task, cartpole(mix=mix))
        assert model.num_timesteps == steps * ROLLOUT
        assert same(weights(model.policy.tasks[0]), head), "task a returns with its head"
        assert learning_rates(model, 4 * ROLLOUT) == pytest.approx([1, 0.75, 0.5, 0.25], rel=1e-9)
    assert model.num_timesteps == 12 * ROLLOUT
    assert model.policy.task_names == ["a", "b"]


def test_learning_rates_of_an_incomplete_last_rollout_and_of_a_constant_schedule():
    share = ROLLOUT / (2 * ROLLOUT + 5)
    assert learning_rates(agent(), 2 * ROLLOUT + 5) == pytest.approx([1, 1 - share, 1 - 2 * share], rel=1e-9)
    assert learning_rates(agent(learning_rate_schedule="constant"), 3 * ROLLOUT) == [1] * 3


def test_hyperparameters_of_the_recipe_reach_ppo():
    model = agent(minibatches=4, epochs=3, clip_range=0.2, clip_range_value=None, entropy_coefficient=0.02)
    assert (model.batch_size, model.n_epochs, model.n_steps, model.n_envs) == (ROLLOUT // 4, 3, 16, 2)
    assert (model.clip_range(1), model.clip_range_vf, model.ent_coef, model.vf_coef) == (0.2, None, 0.02, 0.5)
    assert (model.gamma, model.gae_lambda, model.max_grad_norm) == (0.99, 0.95, 0.5)


# --- spaces of other tasks


def test_tasks_may_have_different_actions():
    model = agent(env=vectorised(lambda: Lines(spaces.Discrete(2))))
    learn(model, 1)
    for task, actions in (("b", spaces.Discrete(5)), ("c", spaces.Box(-0.5, 2, (2,), np.float32))):
        model.switch_task(task, vectorised(lambda actions=actions: Lines(actions)))
        learn(model, 1)  # the environment checks that actions are its own
        assert model.action_space == model.policy.action_space == actions
    assert [module.actor.out_features for module in model.policy.tasks] == [2, 5, 2]


def test_tasks_may_have_different_observation_bounds():
    model = learn(agent(env=make_control_env("CartPole-v1", 2, 0)), 1)  # bounded
    model.switch_task("b", cartpole(mix=2))  # mixed, so without bounds
    learn(model, 1)
    assert model.policy.task_names == ["a", "b"]


def test_a_task_with_other_observations_is_rejected_and_the_agent_stays_usable():
    model = agent()
    with pytest.raises(UserError, match=r"task 'b' observes float32 \(3,\), but .* first task 'a'"):
        model.switch_task("b", vectorised(lambda: Lines(spaces.Discrete(2))))
    assert model.policy.task_names == ["a"]
    learn(model, 1)


@pytest.mark.parametrize("shape", [(1, 36, 36), (36, 36, 1)])
def test_images_may_have_channels_first_or_last(shape):
    model = agent(env=vectorised(lambda: Pixels(shape)))
    assert model.observation_space.shape == (1, 36, 36)
    learn(model, 1)
    model.switch_task("b", vectorised(lambda: Pixels(shape, actions=5)))
    learn(model, 1)
    observations = model.finished_task(3, torch.Generator()).observations
    assert (observations.shape, observations.dtype) == ((3, 1, 36, 36), torch.uint8)


# --- the end of a task


class Watched(VecEnvWrapper):
    """Keeps all observations and actions."""

    def reset(self):
        self.shown, self.actions = [self.venv.reset().copy()], []
        return self.shown[-1]

    def step_async(self, actions):
        self.actions += actions.tolist()
        self.venv.step_async(actions)

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        self.shown.append(observations.copy())
        return observations, rewards, dones, infos


@pytest.mark.parametrize("samples", [0, 1, 2, 7, 40])
def test_a_finished_task_has_as_many_new_observations_as_requested(samples):
    env = Watched(cartpole())
    model = learn(agent(env=env), 1)
    seen = len(env.shown)
    finished = model.finished_task(samples, torch.Generator())
    assert finished.observations.shape == (samples, 4)
    shown = np.concatenate(env.shown[seen - 1 :])[:samples]
    assert (finished.observations.numpy() == shown).all()
    assert len({tuple(row.tolist()) for row in finished.observations}) == samples
    learn(model, 1)


def test_observations_of_a_finished_task_are_played_by_the_stochastic_policy():
    env = Watched(cartpole())
    model = learn(agent(env=env), 1)
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([1.0, 0.0]))  # action 0 in 73 of 100 cases
    done = len(env.actions)
    model.finished_task(400, torch.Generator())
    taken = env.actions[done:]
    assert len(taken) == 400
    assert 0.19 < np.mean(taken) < 0.35


def test_the_finished_task_is_the_task_in_use():
    model = learn(agent(), 1)
    model.switch_task("b", cartpole(mix=2))
    learn(model, 1)
    finished = model.finished_task(10, torch.Generator())
    assert finished.trunk is model.policy.trunk
    features = finished.trunk(finished.preprocess(finished.observations))
    torch.testing.assert_close(finished.head(features).logits.exp().sum(1), torch.ones(10))
    expected = model.policy.get_distribution(finished.observations).distribution.logits
    torch.testing.assert_close(finished.head(features).logits, expected)


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1", "pixels"])
def test_blip_keeps_weights_in_their_intervals_over_two_tasks(env):
    def make():
        return vectorised(Pixels) if env == "pixels" else make_control_env(env, 2, 0, 1)

    model, blip = agent(env=make()), Blip(first_task_bits=4, fisher_samples=100)
    for task in ("a", "b"):
        if task == "b":
            model.switch_task(task, make())
        with attached(blip, model.policy.trunk, model.policy.optimizer):
            learn(model, 3)
            for parameter, (low, high) in zip(model.policy.trunk.parameters(), blip.intervals().values(), strict=True):
                assert ((low <= parameter) & (parameter <= high)).all()
            finished = model.finished_task(blip.samples_wanted, torch.Generator().manual_seed(0))
            metrics = blip.end_task(finished)
        assert task == "b" or metrics["informed_bits"] == pytest.approx(4, abs=0.05)
    if env == "Pendulum-v1":
        assert isinstance(finished.head(finished.trunk(finished.observations)), Normal)
    assert blip.tasks_seen == 2


def test_a_finished_task_knows_its_values_with_a_shared_head_as_well():
    """The trunk that methods see ends with the actor then, so that the critic cannot follow it."""
    shared = agent_config().trunk.model_copy(update={"heads": "shared"})
    model = ContinualPPO(agent_config().model_copy(update={"trunk": shared}), "a", cartpole(), seed=0, device="cpu")
    model.learn_task(ROLLOUT, CallbackList([]))
    finished = model.finished_task(24, torch.Generator().manual_seed(0))
    method = Clear(capacity_frames=16)
    method.start_task(finished.trunk)
    method.end_task(finished)
    tensors = method.state().tensors
    with torch.no_grad():
        torch.testing.assert_close(
            tensors["task1.values"], model.policy.values_of(tensors["task1.observations"]), rtol=1e-4, atol=1e-5
        )
