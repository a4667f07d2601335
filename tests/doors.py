"""A package of environments and wrappers as a user may have: what recipes name as ``tests.doors:…``."""

import gymnasium
import numpy as np
from gymnasium import spaces

GAME = "tests.doors:tests/Door-v0"
FLAT = "gymnasium.wrappers:FlattenObservation"


class Door(gymnasium.Env):
    """Observations are dictionaries; action 1 is rewarded while the key shows 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Dict({"key": spaces.Discrete(2), "place": spaces.Box(-1, 1, (3,), np.float32)})
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observed(), {}

    def step(self, action):
        reward = float(action == self.key)
        self.steps += 1
        return self._observed(), reward, self.steps == 20, False, {}

    def render(self):
        return np.full((16, 16, 3), 10 * self.steps, np.uint8)

    def _observed(self):
        self.key = int(self.np_random.integers(2))
        return {"key": self.key, "place": self.np_random.uniform(-1, 1, 3).astype(np.float32)}


class Scaled(gymnasium.RewardWrapper):
    """Multiplies rewards."""

    def __init__(self, env, factor=2):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


class NoEnvironment:
    """Takes an environment and is none."""

    def __init__(self, env):
        pass


def function(env):
    """No class."""
    return env


gymnasium.register("tests/Door-v0", Door)
