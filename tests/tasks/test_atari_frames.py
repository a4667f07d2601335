"""AtariVecEnv equals Gymnasium's Atari environment, pixel by pixel."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from blip_rl.config import AtariConfig
from blip_rl.tasks.atari import AtariVecEnv

# game: Gymnasium's name, and the lives that the random player below loses before the last one of its first game
GAMES = {
    "kung_fu_master": ("KungFuMaster", 3),
    "boxing": ("Boxing", 0),
    "jamesbond": ("Jamesbond", 5),
    "krull": ("Krull", 2),
    "riverraid": ("Riverraid", 3),
    "space_invaders": ("SpaceInvaders", 2),
}
DECISIONS_IN_THE_SECOND_GAME = 60


def gymnasiums_env(name, **arguments):
    env = gymnasium.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0, **arguments)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=4, screen_size=84, grayscale_obs=True)
    return FrameStackObservation(env, 4, padding_type="zero")


class Pair:
    """The same game in both environments, compared after every step; lost lives end episodes, rewards are raw."""

    def __init__(self, game, name, **config):
        atari = AtariConfig(noop_max=0, fire_on_reset=False, clip_rewards=False, **config)
        self.ours = AtariVecEnv(game, 1, 0, atari, training=True)
        self.theirs = gymnasiums_env(name, full_action_space=atari.full_action_space)
        observation, info = self.theirs.reset(seed=1)
        np.testing.assert_array_equal(self.ours.reset()[0], observation)
        self.lives = info["lives"]
        self.raw_return, self.decisions, self.lives_lost = 0.0, 0, 0

    def step(self, action):
        """Return whether the game is over."""
        observation, reward, terminated, truncated, info = self.theirs.step(action)
        observations, rewards, dones, infos = self.ours.step(np.array([action]))
        self.raw_return, self.decisions = self.raw_return + reward, self.decisions + 1
        over, lost_life = terminated or truncated, 0 < info["lives"] < self.lives
        self.lives_lost += lost_life and not over
        assert rewards[0] == reward
        assert dones[0] == (over or lost_life)
        assert ("episode" in infos[0]) == over
        if over:
            self._compare_ends(infos[0], observation, truncated and not terminated)
            observation, info = self.theirs.reset()
        np.testing.assert_array_equal(observations[0], observation)
        assert self.ours.lives[0] == info["lives"]
        self.lives = info["lives"]
        return over

    def _compare_ends(self, our_info, observation, truncated):
        np.testing.assert_array_equal(our_info["terminal_observation"], observation)
        assert our_info["TimeLimit.truncated"] == truncated
        assert our_info["episode"]["r"] == self.raw_return
        assert our_info["episode"]["l"] == self.decisions


@pytest.mark.parametrize("game", GAMES)
def test_frames_rewards_lives_and_ends_equal_gymnasiums(game):
    name, lives_lost = GAMES[game]
    pair = Pair(game, name)
    rng = np.random.default_rng(0)
    actions = pair.ours.action_space.n
    while not pair.step(int(rng.integers(actions))):
        pass
    assert pair.lives_lost == lives_lost
    for _ in range(DECISIONS_IN_THE_SECOND_GAME):
        assert not pair.step(int(rng.integers(actions)))


def test_the_full_action_set_has_the_same_meaning():
    pair = Pair("space_invaders", "SpaceInvaders", full_action_space=True)
    for t in range(180):
        pair.step(t // 10)
