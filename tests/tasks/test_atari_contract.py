"""AtariVecEnv as a VecEnv of stable-baselines3: ownership of arrays, invalid actions, reset, close, attributes."""

import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor

from tests.tasks.atari_play import EXACT_START, make


def test_later_steps_do_not_overwrite_returned_arrays():
    env = make(training=True, max_episode_frames=20)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for t in range(30):
        observations, rewards, dones, infos = env.step(np.full(2, t % 6))
        arrays = [observations, rewards, dones, env.lives, *(x["terminal_observation"] for x in infos if x)]
        kept += arrays
        copies += [array.copy() for array in arrays]
    env.reset()
    env.close()
    assert len(kept) > 1 + 4 * 30
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("action", [-1, 6, 2**20])
def test_actions_outside_the_action_set_raise_instead_of_blocking(action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="expected 0 to 5"):
        env.step(np.array([0, action]))
    env.step(np.array([0, 5]))


def test_reset_abandons_a_started_step():
    env, fresh = make(**EXACT_START), make(**EXACT_START)
    env.reset()
    env.step_async(np.zeros(2, dtype=int))
    np.testing.assert_array_equal(env.reset(), fresh.reset())
    np.testing.assert_array_equal(env.step(np.ones(2, dtype=int))[0], fresh.step(np.ones(2, dtype=int))[0])
    assert (env._lengths == 1).all()


def test_close_stops_the_threads_and_is_idempotent():
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in Linux's /proc")
    before = len(list(Path("/proc/self/task").iterdir()))
    env = make(num_threads=1)
    env.reset()
    assert len(list(Path("/proc/self/task").iterdir())) == before + 1
    env.step_async(np.zeros(2, dtype=int))
    env.close()
    env.close()
    deadline = time.monotonic() + 5
    while len(list(Path("/proc/self/task").iterdir())) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(Path("/proc/self/task").iterdir())) == before


def test_attributes_are_shared_by_all_games():
    env = make(num_envs=3)
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.get_attr("num_envs", indices=iter([1])) == [3]
    assert not env.has_attr("no_such_attribute")
    env.set_attr("label", "x")
    assert env.get_attr("label", indices=1) == ["x"]
    with pytest.raises(AttributeError, match="cannot be set for some"):
        env.set_attr("label", "y", indices=[0])
    with pytest.raises(AttributeError, match=r"'render': .* no Python methods"):
        env.env_method("render")
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(TransformObservation, indices=0) == [False]
