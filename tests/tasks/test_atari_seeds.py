"""Effects of the seed of an AtariVecEnv."""

import numpy as np
import pytest

from tests.tasks.atari_play import make, play

RANDOM_GAMES = {"sticky_action_probability": 0.25, "max_episode_frames": 120}


def same_play(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip((a[0], a[1], a[2], a[4]), (b[0], b[1], b[2], b[4]), strict=True):
            if not np.array_equal(x, y):
                return False
    return True


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 3])
def test_a_seed_determines_all_following_games(seed):
    first, second = (play(make("breakout", 3, seed, num_threads=n, **RANDOM_GAMES), 100) for n in (1, 2))
    assert sum(step[2].sum() for step in first) >= 9
    assert same_play(first, second)
    assert not same_play(first, play(make("breakout", 3, 3, **RANDOM_GAMES), 100))


@pytest.mark.parametrize(("noop_max", "stickiness", "differ"), [(0, 0.0, False), (30, 0.0, True), (0, 0.25, True)])
def test_games_of_one_seed_differ_by_no_ops_and_sticky_actions_alone(noop_max, stickiness, differ):
    env = make("breakout", 4, noop_max=noop_max, sticky_action_probability=stickiness)
    env.reset()
    observations = [env.step(np.full(4, t % 4))[0] for t in range(30)][-1]
    assert (len({observation.tobytes() for observation in observations}) > 1) == differ


def test_game_i_is_seeded_with_seed_plus_i():
    env, neighbour = make("breakout", 3, seed=5, **RANDOM_GAMES), make("breakout", 1, seed=7, **RANDOM_GAMES)
    np.testing.assert_array_equal(env.reset()[2], neighbour.reset()[0])
    for t in range(90):
        action = t // 5 % 4
        np.testing.assert_array_equal(env.step(np.full(3, action))[0][2], neighbour.step(np.array([action]))[0][0])


def test_a_seed_applies_to_the_next_reset_only():
    env = make("breakout", 3, seed=1, **RANDOM_GAMES)
    first = play(env, 60)
    assert not same_play(first, play(env, 60)), "without a new seed the generator continues"
    assert list(env.seed(1)) == [1, 2, 3]
    assert same_play(first, play(env, 60))


def test_random_seeds_are_in_the_emulators_range():
    env = make("breakout", 3)
    drawn = [env.seed() for _ in range(20)]
    assert len({seeds[0] for seeds in drawn}) > 1
    assert all(0 <= seeds[0] < seeds[2] < 2**31 for seeds in drawn)
    env.reset()
