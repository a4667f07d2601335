"""Rollout collection from groups of environments: the same rollouts as without groups, in any order of completion."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from blip_rl.config import AtariConfig
from blip_rl.learner.distributions import evaluate_actions
from blip_rl.schedule import TaskConfig
from blip_rl.tasks.groups import GroupedVecEnv
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.recorded import RecordedVecEnv
from tests.learner.small_agents import ROLLOUT, Lines, Pixels, agent, learn, vectorised, weights

CARTPOLE = TaskConfig(name="a", game="CartPole-v1", steps=1000)


def cartpoles(groups, count=3):
    return RecordedVecEnv(make_training_env(CARTPOLE, AtariConfig(), count, 0, groups))


def collected(groups, rollouts=2, count=3):
    """An agent that has only played, its rollout and all that its environments' steps told."""
    model = agent(env=cartpoles(groups, count), environments=count, minibatches=4)
    model.train = lambda: None
    model.restart_games(3)
    model.learn(rollouts * count * 16, reset_num_timesteps=False)
    return model


@pytest.mark.parametrize("count", [2, 3])
def test_a_rollout_of_two_groups_is_what_its_games_showed(count):
    """Its actions, taken again in the same games without groups, lead to what the rollout holds."""
    model = collected(2, rollouts=1, count=count)
    rollout, plain = model.rollout_buffer, cartpoles(1, count)
    assert [where.stop - where.start for where in model.env.groups] == [count - count // 2, count // 2]
    plain.seed(3)
    observations, starts = plain.reset(), np.ones(count)
    for step in range(16):
        np.testing.assert_array_equal(rollout._observations[step], observations)
        np.testing.assert_array_equal(rollout.episode_starts[step], starts)
        observations, rewards, starts, _ = plain.step(rollout.actions[step].numpy())
        np.testing.assert_array_equal(rollout.rewards[step], rewards)
    np.testing.assert_array_equal(model._last_obs, observations)
    values, log_probs, _ = evaluate_actions(model.policy, rollout.all_observations(), rollout.actions.flatten())
    torch.testing.assert_close(rollout.values.flatten(), values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rollout.log_probs.flatten(), log_probs, rtol=1e-5, atol=1e-6)


def test_what_was_played_in_turn_is_found_again():
    model, other = collected(2), agent(env=cartpoles(1), environments=3, minibatches=4)
    other.replay_games(3, model.env.action_log())
    np.testing.assert_array_equal(other._last_obs, model._last_obs)
    np.testing.assert_array_equal(other._last_episode_starts, model._last_episode_starts)
    assert len(model.env.action_log()) == 32


class Told(DummyVecEnv):
    """Writes down when it is asked for what."""

    def __init__(self, name, log, build, count):
        super().__init__([build] * count)
        self.name, self.log = name, log

    def step_async(self, actions):
        self.log.append(f"{self.name} begins")
        super().step_async(actions)

    def step_wait(self):
        self.log.append(f"{self.name} ends")
        return super().step_wait()


class Listener(BaseCallback):
    def __init__(self, stop_at=None):
        super().__init__()
        self.heard, self.stop_at = [], stop_at

    def _on_step(self):
        self.heard.append({key: self.locals[key] for key in ("rewards", "dones", "infos")})
        return len(self.heard) != self.stop_at


def told(build, log=None, **numbers):
    log = [] if log is None else log
    members = [Told(name, log, build, 1) for name in "AB"]
    return agent(env=GroupedVecEnv(members), **numbers)


def test_one_group_plays_while_the_other_is_thought_about():
    log = []
    model = told(Pixels, log)
    model.train = lambda: None
    choose = type(model.policy).forward
    model.policy.forward = lambda *args: log.append("actions") or choose(model.policy, *args)
    log.clear()
    learn(model, 1)
    first = ["actions", "A begins"]
    turn = ["actions", "B begins", "A ends", "actions", "A begins", "B ends"]
    last = ["actions", "B begins", "A ends", "B ends"]
    assert log == first + turn * 15 + last


def test_callbacks_hear_of_all_environments_at_once():
    model = told(lambda: TimeLimit(Pixels(), 7))
    listener = Listener()
    model.learn(2 * ROLLOUT, listener, reset_num_timesteps=False)
    assert len(listener.heard) == 32
    for step, heard in enumerate(listener.heard, start=1):
        assert heard["rewards"].shape == heard["dones"].shape == (2,)
        assert heard["dones"].tolist() == [step % 7 == 0] * 2
        assert [("terminal_observation" in info) for info in heard["infos"]] == [step % 7 == 0] * 2
    assert model.num_timesteps == 2 * ROLLOUT


def test_the_value_beyond_a_time_limit_reaches_the_right_reward():
    def rewards(groups):
        members = [vectorised(lambda: TimeLimit(Lines(spaces.Discrete(2)), 5), n) for n in groups]
        model = agent(env=GroupedVecEnv(members))
        model.train = lambda: None
        learn(model, 1)
        return model.rollout_buffer.rewards

    found = rewards([1, 1])
    np.testing.assert_array_equal(found != 1, np.tile((np.arange(16) % 5 == 4)[:, None], 2))
    np.testing.assert_allclose(found, rewards([2]), rtol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 5, 15, 16, 17])
def test_a_callback_that_stops_leaves_all_groups_at_the_same_step(stop_at):
    log = []
    model = told(Pixels, log)
    log.clear()
    model.learn(2 * ROLLOUT, Listener(stop_at), reset_num_timesteps=False)
    begun = [sum(entry == f"{name} begins" for entry in log) for name in "AB"]
    ended = [sum(entry == f"{name} ends" for entry in log) for name in "AB"]
    assert begun == ended
    assert begun[0] == begun[1]
    assert model.num_timesteps == 2 * stop_at
    learn(model, 1)


def test_two_groups_learn_the_same_at_every_run():
    def learned():
        model = agent(env=cartpoles(2), environments=3, minibatches=4)
        model.learn(192, reset_num_timesteps=False)
        return weights(model.policy)

    first = learned()
    assert all(torch.equal(value, first[name]) for name, value in learned().items())
