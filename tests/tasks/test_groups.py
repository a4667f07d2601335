"""Groups of environments behave as one VecEnv when stepped together."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from blip_rl.config import AtariConfig, ComputeConfig
from blip_rl.schedule import TaskConfig
from blip_rl.tasks.groups import GroupedVecEnv, group_sizes
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.recorded import RecordedVecEnv
from tests.learner.small_agents import Lines

GAMES = {"cartpole": ("CartPole-v1", 60), "atari": ("breakout", 70)}
STICKY = AtariConfig(sticky_action_probability=0.25)  # so that a game's own seed decides it


def make(kind, groups, count=3, seed=5):
    task = TaskConfig(name="task", game=GAMES[kind][0], steps=1000)
    return make_training_env(task, STICKY, count, seed, groups)


def actions_for(env, steps):
    rng = np.random.default_rng(3)
    return rng.integers(0, env.action_space.n, (steps, env.num_envs))


def told(step):
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


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kind", GAMES)
def test_the_same_games_as_without_groups(kind, groups):
    plain, grouped = make(kind, 1), make(kind, groups)
    try:
        np.testing.assert_array_equal(plain.reset(), grouped.reset())
        ended = 0
        for actions in actions_for(plain, GAMES[kind][1]):
            expected = told(plain.step(actions))
            assert_same(told(grouped.step(actions)), expected)
            ended += expected[2].sum()
        assert ended or kind == "atari"
        for env in (plain, grouped):
            env.seed(77)
        np.testing.assert_array_equal(plain.reset(), grouped.reset())
    finally:
        plain.close()
        grouped.close()


@pytest.mark.parametrize("kind", GAMES)
def test_groups_stepped_in_turn_play_the_same_games(kind):
    """The first group is always a step ahead."""
    plain, grouped = make(kind, 1), make(kind, 2)
    try:
        plain.reset()
        grouped.reset()
        first, second = grouped.groups
        assert (first, second) == (slice(0, 2), slice(2, 3))
        taken = actions_for(plain, 40)
        grouped.step_group_async(0, taken[0, first])
        for t in range(40):
            grouped.step_group_async(1, taken[t, second])
            ahead = grouped.step_group_wait(0)
            if t < 39:
                grouped.step_group_async(0, taken[t + 1, first])
            behind = grouped.step_group_wait(1)
            parts = [np.concatenate(part) for part in zip(ahead[:3], behind[:3], strict=True)]
            assert_same(told((*parts, ahead[3] + behind[3])), told(plain.step(taken[t])))
    finally:
        plain.close()
        grouped.close()


@pytest.mark.parametrize("kind", GAMES)
def test_games_recorded_group_by_group_are_found_again(kind):
    """Replayed without groups, from what the groups noted down each on its own."""
    recorded, plain = RecordedVecEnv(make(kind, 2)), RecordedVecEnv(make(kind, 1))
    try:
        recorded.reset()
        taken = actions_for(recorded, 50)
        for step in taken[:20]:
            recorded.step(step)
        for step in taken[20:]:
            for group, where in enumerate(recorded.groups):
                recorded.step_group_async(group, step[where])
            last = [recorded.step_group_wait(group)[0] for group in range(2)]
        assert np.array_equal(recorded.action_log(), taken)
        plain.reset()
        for step in recorded.action_log():
            observations = plain.step(step.astype(np.int64))[0]
        np.testing.assert_array_equal(observations, np.concatenate(last))
        assert np.array_equal(plain.action_log(), taken)
        recorded.reset()
        assert len(recorded.action_log()) == 0
    finally:
        recorded.close()
        plain.close()


def test_a_record_with_a_seam_is_refused():
    env = RecordedVecEnv(make("cartpole", 2))
    env.reset()
    env.step_group_async(0, np.zeros(2, dtype=int))
    env.step_group_wait(0)
    env.step_group_async(1, np.zeros(1, dtype=int))
    env.step_group_wait(1)
    env.step_group_async(0, np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="dimension"):
        env.action_log()


def test_a_step_begun_in_one_group_alone_does_not_outlive_a_reset():
    grouped, plain = make("atari", 2), make("atari", 1)
    try:
        for env in (grouped, plain):
            env.reset()
        grouped.step_group_async(0, np.zeros(2, dtype=int))
        for env in (grouped, plain):
            env.seed(9)
        np.testing.assert_array_equal(grouped.reset(), plain.reset())
        actions = np.ones(3, dtype=int)
        assert_same(told(grouped.step(actions)), told(plain.step(actions)))
    finally:
        grouped.close()
        plain.close()


@pytest.mark.parametrize(
    ("count", "groups", "sizes"), [(1, 1, [1]), (2, 2, [1, 1]), (5, 2, [3, 2]), (16, 2, [8, 8]), (7, 3, [3, 2, 2])]
)
def test_groups_are_as_equal_as_can_be(count, groups, sizes):
    assert group_sizes(count, groups) == sizes


@pytest.mark.parametrize(
    ("asked", "device", "count", "groups"),
    [
        ("auto", "cpu", 8, 1), ("auto", "cuda", 8, 2), ("auto", "cuda:1", 2, 2), ("auto", "cuda", 1, 1),
        (2, "cpu", 8, 2), (2, "cpu", 1, 1), (1, "cuda", 8, 1),
    ],
)  # fmt: skip
def test_how_many_groups_there_are(asked, device, count, groups):
    assert ComputeConfig(environment_groups=asked).groups(device, count) == groups


def test_attributes_and_methods_reach_the_right_environment():
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
    env.set_options([{"k": 1}, {"k": 2}, {"k": 3}])
    env.reset()
    assert len(env.reset_infos) == 3
