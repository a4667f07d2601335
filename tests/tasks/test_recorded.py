"""Replaying games to their state from seeds and action logs."""

from contextlib import closing

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from blip_rl.config import AtariConfig
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.groups import GroupedVecEnv
from blip_rl.tasks.make import make_training_env
from blip_rl.tasks.recorded import RecordedVecEnv
from tests.learner.small_agents import Lines

GAMES = {"cartpole": ("CartPole-v1", 120), "pendulum": ("Pendulum-v1", 230), "atari": ("pong", 90)}


def play(env, actions):
    """Observations, rewards, dones and last observations while these actions are taken."""
    seen = []
    for step in actions:
        observations, rewards, dones, infos = env.step(step)
        ends = [info.get("terminal_observation") for info in infos]
        seen.append((observations.copy(), rewards.copy(), dones.copy(), [e for e in ends if e is not None]))
    return seen


def same(one, other):
    return all(
        np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])
        and len(a[3]) == len(b[3]) and all(np.array_equal(x, y) for x, y in zip(a[3], b[3], strict=True))
        for a, b in zip(one, other, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "groups"), [("cartpole", 1), ("pendulum", 1), ("atari", 1), ("cartpole", 2)])
def test_replaying_the_action_log_restores_the_games(kind, groups):
    """Other games are played first; after the replay both continue equally."""
    game, steps = GAMES[kind]
    task = TaskConfig(name="task", game=game, steps=1000)
    envs = [RecordedVecEnv(make_training_env(task, AtariConfig(), 2, seed, groups)) for seed in (5, 77)]
    with closing(envs[0]), closing(envs[1]):
        generator = envs[0].action_space
        generator.seed(3)
        actions = [np.stack([generator.sample() for _ in range(2)]) for _ in range(steps)]
        envs[0].seed(9)
        envs[0].reset()
        play(envs[0], actions[:7])
        envs[0].seed(11)
        first = envs[0].reset()
        seen = play(envs[0], actions)
        log = envs[0].action_log()
        assert len(log) == steps
        envs[1].seed(11)
        assert np.array_equal(envs[1].reset(), first)
        assert same(play(envs[1], log.astype(np.int64) if log.dtype == np.uint8 else log), seen)
        assert np.array_equal(envs[1].action_log(), log)
        assert same(play(envs[1], actions[:20]), play(envs[0], actions[:20]))
        assert kind == "atari" or any(dones.any() for _, _, dones, _ in seen), "no episode ended"


def test_a_log_of_unequal_groups_is_rejected():
    env = RecordedVecEnv(GroupedVecEnv([DummyVecEnv([lambda: Lines(spaces.Discrete(4))] * n) for n in (2, 1)]))
    env.reset()
    for group, count in ((0, 2), (1, 1), (0, 2)):
        env.step_group_async(group, np.zeros(count, dtype=int))
        env.step_group_wait(group)
    with pytest.raises(ValueError, match="dimension"):
        env.action_log()


def recorded(space):
    return RecordedVecEnv(DummyVecEnv([lambda: Lines(space)] * 2))


@pytest.mark.parametrize(
    ("space", "actions", "dtype"),
    [
        (spaces.Discrete(4), [[0, 3], [2, 2]], np.uint8),
        (spaces.Discrete(300), [[0, 299], [1, 1]], np.int64),
        (spaces.Box(-1, 1, (2,), np.float32), [[[0.5, -1], [0, 0]], [[1, 1], [0, 0.25]]], np.float32),
    ],
)
def test_the_log_holds_the_actions_and_is_cleared_at_reset(space, actions, dtype):
    env = recorded(space)
    env.reset()
    assert env.action_log().shape[0] == 0
    for step in actions:
        env.step(np.array(step, dtype=np.int64 if isinstance(space, spaces.Discrete) else np.float32))
    assert np.array_equal(env.action_log(), np.array(actions))
    if dtype == np.uint8:
        assert env.action_log().dtype == np.uint8
    env.reset()
    assert len(env.action_log()) == 0


def test_the_log_holds_copies():
    env = recorded(spaces.Box(-1, 1, (1,), np.float32))
    env.reset()
    actions = np.array([[0.5], [1]], np.float32)
    env.step(actions)
    actions[:] = 0
    assert env.action_log().tolist() == [[[0.5], [1]]]
