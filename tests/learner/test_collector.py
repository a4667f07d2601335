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
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.groups import GroupedVecEnv
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.recorded import RecordedVecEnv
from tests.learner.small_agents import ROLLOUT, Lines, Pixels, agent, learn, vectorised

CARTPOLE = TaskConfig(name="a", game="CartPole-v1", steps=1000)


def cartpoles(groups, count=3):
    return RecordedVecEnv(make_training_env(CARTPOLE, AtariConfig(), count, 0, groups))


def collected(groups, rollouts=2, count=3):
    """An agent that has collected rollouts without learning."""
    model = agent(env=cartpoles(groups, count), environments=count, minibatches=4)
    model.train = lambda: None
    model.restart_games(3)
    model.learn(rollouts * count * 16, reset_num_timesteps=False)
    return model


@pytest.mark.parametrize("count", [2, 3])
def test_a_rollout_of_two_groups_equals_its_games_played_ungrouped(count):
    """The same actions in ungrouped environments give the observations, rewards and starts of the rollout."""
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


def test_replaying_the_log_of_two_groups_restores_the_games():
    model, other = collected(2), agent(env=cartpoles(1), environments=3, minibatches=4)
    other.replay_games(3, model.env.action_log())
    np.testing.assert_array_equal(other._last_obs, model._last_obs)
    np.testing.assert_array_equal(other._last_episode_starts, model._last_episode_starts)
    assert len(model.env.action_log()) == 32


class LoggedVecEnv(DummyVecEnv):
    """Appends the begin and end of every step to a log."""

    def __init__(self, name, log, build, count):
        super().__init__([build] * count)
        self.name, self.log = name, log

    def step_async(self, actions):
        self.log.append(f"{self.name} begins")
        super().step_async(actions)

    def step_wait(self):
        self.log.append(f"{self.name} ends")
        return super().step_wait()


def logged_agent(build, **numbers):
    """An agent over two groups of one environment each, and the log of their steps."""
    log = []
    model = agent(env=GroupedVecEnv([LoggedVecEnv(name, log, build, 1) for name in "AB"]), **numbers)
    log.clear()
    return model, log


class StepRecorder(BaseCallback):
    def __init__(self, stop_at=None):
        super().__init__()
        self.steps, self.stop_at = [], stop_at

    def _on_step(self):
        self.steps.append({key: self.locals[key] for key in ("rewards", "dones", "infos")})
        return len(self.steps) != self.stop_at


def test_one_group_is_stepped_while_actions_are_chosen_for_the_other():
    model, log = logged_agent(Pixels)
    model.train = lambda: None
    choose = type(model.policy).forward
    model.policy.forward = lambda *args: log.append("actions") or choose(model.policy, *args)
    learn(model, 1)
    first = ["actions", "A begins"]
    turn = ["actions", "B begins", "A ends", "actions", "A begins", "B ends"]
    last = ["actions", "B begins", "A ends", "B ends"]
    assert log == first + turn * 15 + last


def test_callbacks_see_all_environments_at_every_step():
    model, _ = logged_agent(lambda: TimeLimit(Pixels(), 7))
    recorder = StepRecorder()
    model.learn(2 * ROLLOUT, recorder, reset_num_timesteps=False)
    assert len(recorder.steps) == 32
    for step, seen in enumerate(recorder.steps, start=1):
        assert seen["rewards"].shape == seen["dones"].shape == (2,)
        assert seen["dones"].tolist() == [step % 7 == 0] * 2
        assert [("terminal_observation" in info) for info in seen["infos"]] == [step % 7 == 0] * 2
    assert model.num_timesteps == 2 * ROLLOUT


def test_truncation_bootstraps_the_reward_of_the_right_environment():
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
    model, log = logged_agent(Pixels)
    model.learn(2 * ROLLOUT, StepRecorder(stop_at), reset_num_timesteps=False)
    begun = [sum(entry == f"{name} begins" for entry in log) for name in "AB"]
    ended = [sum(entry == f"{name} ends" for entry in log) for name in "AB"]
    assert begun == ended
    assert begun[0] == begun[1]
    assert model.num_timesteps == 2 * stop_at
    learn(model, 1)
