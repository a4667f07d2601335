"""Groups of environments behave as one VecEnv; tests/learner/test_collector.py steps them one at a time."""

from contextlib import closing

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from blip_rl.config import AtariConfig, ComputeConfig
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.groups import GroupedVecEnv, group_sizes
from blip_rl.tasks.make import make_training_env
from tests.learner.small_agents import Lines

GAMES = {"cartpole": ("CartPole-v1", 60), "atari": ("breakout", 70)}
STICKY = AtariConfig(sticky_action_probability=0.25)  # so that a game's own seed decides it


def make(kind, groups, count=3, seed=5):
    task = TaskConfig(name="task", game=GAMES[kind][0], steps=1000)
    return make_training_env(task, STICKY, count, seed, groups)


def actions_for(env, steps):
    rng = np.random.default_rng(3)
    return rng.integers(0, env.action_space.n, (steps, env.num_envs))


def without_seconds(step):
    observations, rewards, dones, infos = step
    for info in infos:
        info.get("episode", {}).pop("t", None)
    return observations, rewards, dones, infos


def assert_same(one, other):
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(one[3], other[3], strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key])


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("kind", GAMES)
def test_grouped_environments_play_the_same_games_as_ungrouped_ones(kind, groups):
    with closing(make(kind, 1)) as plain, closing(make(kind, groups)) as grouped:
        np.testing.assert_array_equal(plain.reset(), grouped.reset())
        ended = 0
        for actions in actions_for(plain, GAMES[kind][1]):
            expected = without_seconds(plain.step(actions))
            assert_same(without_seconds(grouped.step(actions)), expected)
            ended += expected[2].sum()
        assert ended or kind == "atari"
        for env in (plain, grouped):
            env.seed(77)
        np.testing.assert_array_equal(plain.reset(), grouped.reset())


def test_reset_abandons_a_step_started_in_one_group():
    with closing(make("atari", 2)) as grouped, closing(make("atari", 1)) as plain:
        for env in (grouped, plain):
            env.reset()
        grouped.step_group_async(0, np.zeros(2, dtype=int))
        for env in (grouped, plain):
            env.seed(9)
        np.testing.assert_array_equal(grouped.reset(), plain.reset())
        actions = np.ones(3, dtype=int)
        assert_same(without_seconds(grouped.step(actions)), without_seconds(plain.step(actions)))


@pytest.mark.parametrize(
    ("count", "groups", "sizes"), [(1, 1, [1]), (2, 2, [1, 1]), (5, 2, [3, 2]), (16, 2, [8, 8]), (7, 3, [3, 2, 2])]
)
def test_groups_differ_in_size_by_one_at_most(count, groups, sizes):
    assert group_sizes(count, groups) == sizes


@pytest.mark.parametrize(
    ("asked", "device", "count", "groups"),
    [
        ("auto", "cpu", 8, 1), ("auto", "cuda", 8, 2), ("auto", "cuda:1", 2, 2), ("auto", "cuda", 1, 1),
        (2, "cpu", 8, 2), (2, "cpu", 1, 1), (1, "cuda", 8, 1),
    ],
)  # fmt: skip
def test_number_of_groups_by_setting_device_and_environments(asked, device, count, groups):
    assert ComputeConfig(environment_groups=asked).groups(device, count) == groups


def test_attributes_and_methods_are_those_of_the_selected_environments():
    class Numbered(Lines):
        def __init__(self, number):
            super().__init__(spaces.Discrete(2))
            self.number, self.render_mode = number, None

        def plus(self, more, times=1):
            return self.number + more * times

    def member(*numbers):
        return DummyVecEnv([lambda number=number: Monitor(Numbered(number)) for number in numbers])

    env = GroupedVecEnv([member(0, 1), member(2)])
    assert env.get_attr("number") == [0, 1, 2]
    assert env.get_attr("number", [2, 0]) == [2, 0]
    assert env.env_method("plus", 10, indices=[1, 2], times=2) == [21, 22]
    assert env.env_is_wrapped(Monitor) == [True] * 3
    env.set_attr("mark", "x", 2)
    assert env.get_attr("mark", 2) == ["x"]
    with pytest.raises(AttributeError):
        env.get_attr("mark", 0)
    env.set_attr("mark", "y")
    assert env.get_attr("mark") == ["y"] * 3
    env.seed(4)
    env.reset()
    assert len(env.reset_infos) == 3
