"""The proof that AtariVecEnv plays what Gymnasium's own environment plays, to the pixel."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from blip_rl.config import AtariConfig
from blip_rl.tasks.atari import AtariVecEnv

# game: (Gymnasium's name, lives lost in the first game of the random player below, seen while its second life lasts)
GAMES = {
    "kung_fu_master": ("KungFuMaster", 3),
    "boxing": ("Boxing", 0),
    "jamesbond": ("Jamesbond", 5),
    "krull": ("Krull", 2),
    "riverraid": ("Riverraid", 3),
    "space_invaders": ("SpaceInvaders", 2),
}
STEPS_AFTER_THE_FIRST_GAME = 60


def gymnasiums_env(name, **arguments):
    env = gymnasium.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0, **arguments)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=4, screen_size=84, grayscale_obs=True)
    return FrameStackObservation(env, 4, padding_type="zero")


def our_env(game, training, **config):
    return AtariVecEnv(game, 1, 0, AtariConfig(noop_max=0, fire_on_reset=False, **config), training=training)


def assert_same_step(theirs, ours, lives_before, training):
    """Compare one step of both; return whether the game ended, and their observation after it."""
    env, (observation, reward, terminated, truncated, info) = theirs
    vec_env, (observations, rewards, dones, infos) = ours
    over = terminated or truncated
    lost_life = 0 < info["lives"] < lives_before
    assert rewards[0] == (np.sign(reward) if training else reward)
    assert dones[0] == (over or (training and lost_life))
    assert ("episode" in infos[0]) == over
    if over:
        np.testing.assert_array_equal(infos[0]["terminal_observation"], observation)
        assert infos[0]["TimeLimit.truncated"] == (truncated and not terminated)
        observation, info = env.reset()
    np.testing.assert_array_equal(observations[0], observation)
    assert vec_env.lives[0] == info["lives"]
    return over, info["lives"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("game", GAMES)
def test_same_frames_rewards_lives_and_ends_as_gymnasium(game, training):
    name, lives_to_lose = GAMES[game]
    env, vec_env = gymnasiums_env(name), our_env(game, training)
    observation, info = env.reset(seed=1)
    np.testing.assert_array_equal(vec_env.reset()[0], observation)
    rng = np.random.default_rng(0)
    raw_return, lives_lost, decisions, steps_left, lives = 0.0, 0, 0, None, info["lives"]
    while steps_left is None or steps_left > 0:
        action = int(rng.integers(vec_env.action_space.n))
        theirs, ours = env.step(action), vec_env.step(np.array([action]))
        over, lives_now = assert_same_step((env, theirs), (vec_env, ours), lives, training)
        lives_lost += steps_left is None and lives_now < lives
        raw_return, decisions, lives = raw_return + theirs[1], decisions + 1, lives_now
        steps_left = None if steps_left is None else steps_left - 1
        if over:
            assert steps_left is None, "the first game should end, not the second"
            assert (ours[3][0]["episode"]["r"], ours[3][0]["episode"]["l"]) == (raw_return, decisions)
            steps_left = STEPS_AFTER_THE_FIRST_GAME
    assert lives_lost == lives_to_lose
