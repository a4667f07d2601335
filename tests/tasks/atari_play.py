"""A game to test and a random player for it."""

import numpy as np

from blip_rl.config import AtariConfig
from blip_rl.tasks.atari import AtariVecEnv

EXACT_START = {"noop_max": 0, "fire_on_reset": False}


def make(game="space_invaders", num_envs=2, seed=0, *, training=False, num_threads=0, **config):
    return AtariVecEnv(game, num_envs, seed, AtariConfig(**config), training=training, num_threads=num_threads)


def play(env, steps, action_seed=0):
    """Reset, then act at random; one (observations, rewards, dones, infos, lives) for each step."""
    env.reset()
    rng = np.random.default_rng(action_seed)
    actions = rng.integers(env.action_space.n, size=(steps, env.num_envs))
    return [(*env.step(action), env.lives.copy()) for action in actions]
