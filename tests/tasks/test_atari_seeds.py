"""Effects of the seed of an AtariVecEnv."""

import numpy as np
import pytest

from blip_rl.errors import UserError
from tests.tasks.atari_play import make, play

RANDOM_GAMES = {"sticky_action_probability": 0.25, "max_episode_frames": 120}


def same_play(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip((a[0], a[1], a[2], a[4]), (b[0], b[1], b[2], b[4]), strict=True):
            if not np.array_equal(x, y):
                return False
    return True


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 3])
def test_a_seed_decides_all_games_to_come(seed):
    first, second = (play(make("breakout", 3, seed, num_threads=n, **RANDOM_GAMES), 100) for n in (1, 2))
    assert sum(step[2].sum() for step in first) >= 9
    assert same_play(first, second)


def test_seeds_and_games_differ():
    steps = play(make("breakout", 3, seed=0, **RANDOM_GAMES), 60)
    assert not same_play(steps, play(make("breakout", 3, seed=3, **RANDOM_GAMES), 60))
    env = make("breakout", 3, seed=0, **RANDOM_GAMES)
    env.reset()
    observations = np.stack([env.step(np.zeros(3, dtype=int))[0] for _ in range(60)])
    assert not np.array_equal(observations[:, 0], observations[:, 1])
    assert not np.array_equal(observations[:, 1], observations[:, 2])


def test_without_noops_only_sticky_actions_let_games_differ():
    different = {}
    for probability in (0.0, 0.25):
        env = make("breakout", 4, noop_max=0, sticky_action_probability=probability)
        env.reset()
        observations = [env.step(np.full(4, t % 4))[0] for t in range(30)][-1]
        different[probability] = len({observation.tobytes() for observation in observations})
    assert different[0.0] == 1
    assert different[0.25] > 1


def test_game_i_is_seeded_with_seed_plus_i():
    env, neighbour = make("breakout", 3, seed=5, **RANDOM_GAMES), make("breakout", 1, seed=7, **RANDOM_GAMES)
    np.testing.assert_array_equal(env.reset()[2], neighbour.reset()[0])
    for t in range(90):
        action = t // 5 % 4
        np.testing.assert_array_equal(env.step(np.full(3, action))[0][2], neighbour.step(np.array([action]))[0][0])


def test_seed_takes_effect_at_the_next_reset_and_once():
    env = make("breakout", 3, seed=1, **RANDOM_GAMES)
    first = play(env, 60)
    assert not same_play(first, play(env, 60)), "without a new seed the random numbers go on"
    assert list(env.seed(1)) == [1, 2, 3]
    assert same_play(first, play(env, 60))


def test_a_random_seed_is_one_the_emulator_takes():
    env = make("breakout", 3)
    drawn = [env.seed() for _ in range(20)]
    assert len({seeds[0] for seeds in drawn}) > 1
    assert all(0 <= seeds[0] < seeds[2] < 2**31 for seeds in drawn)
    env.reset()


@pytest.mark.parametrize("seed", [-1, 2**31 - 1])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(UserError, match=f"seed {seed}: expected 0 to 2147483646"):
        make(seed=seed)
