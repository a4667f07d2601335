"""MinAtar games as a stable-baselines3 ``VecEnv`` that steps all copies in one loop, and their rendering.

MinAtar (Young and Tian 2019, https://arxiv.org/abs/1903.03176) reduces five Atari games to a grid of 10 × 10 cells with
one boolean plane for each kind of object. The games are those of the package ``minatar``. Their modules need NumPy
alone, whereas the package itself imports Matplotlib and seaborn for its viewer: 2 s and 100 MB in each process that
plays. So the modules are loaded from their files, without the package.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from blip_rl.task_schedule import MinatarConfig
from blip_rl.tasks.batched import BatchedVecEnv, Info
from blip_rl.tasks.minatar_names import MinatarGame

SIZE = 10
"""Cells along each side of every game's grid."""
CHANNELS = 10
"""Planes of an observation: as many as the game with most of them, Seaquest, has. Others are padded with empty ones,
so that every game fits a trunk that any other game has shaped."""
_ACTIONS = 6
_ON = np.uint8(255)

Planes = npt.NDArray[np.bool_]
"""bool, (rows, columns, planes of the game)."""


class Game:
    """One copy of a game: sticky actions and seeds as in ``minatar.Environment``, and bit-identical to it.

    Attributes:
        action_set: The package's number of each action.
        planes: Number of planes.
    """

    def __init__(self, game: MinatarGame, config: MinatarConfig) -> None:
        self._make = functools.partial(_module(game.module).Env, ramping=config.difficulty_ramping)
        self._sticky = config.sticky_action_probability
        self._env = self._make()
        self.action_set: list[int] = self._env.minimal_action_set() if game.minimal_actions else list(range(_ACTIONS))
        self.planes = int(self._env.state_shape()[2])

    def seed(self, seed: int) -> None:
        """Determine all that the game draws from the next reset on."""
        self._env, self._last = self._make(), 0
        # Not default_rng: the package's generator, so that its games are repeated exactly.
        self._env.random = self._random = np.random.RandomState(seed)

    def reset(self) -> Planes:
        """Start a game and return its first planes."""
        self._env.reset()
        return self.state()

    def act(self, action: int) -> tuple[int, bool]:
        """Take one step; return its reward and whether the game is over."""
        if self._random.rand() >= self._sticky:  # drawn also if the probability is 0, as in the package
            self._last = self.action_set[action]
        reward, over = self._env.act(self._last)
        return int(reward), bool(over)

    def state(self) -> Planes:
        """Return the planes."""
        planes: Planes = self._env.state()
        return planes


class MinatarVecEnv(BatchedVecEnv):
    """``num_envs`` copies of one MinAtar game as a ``VecEnv`` of stable-baselines3.

    Observations are uint8 of shape (num_envs, 10, 10, 10): planes padded to :data:`CHANNELS`, rows, columns. A cell
    that is set is 255, because networks divide images by 255. Rewards are raw, float32 of shape (num_envs,). Returned
    arrays belong to the caller: later steps do not overwrite them. A Gymnasium environment for each copy, with its
    checks of every step, would cost more than the games themselves, which take 2 to 20 µs a step.
    """

    def __init__(self, game: MinatarGame, num_envs: int, seed: int, config: MinatarConfig) -> None:
        """Build the copies.

        Args:
            game: The game and its action set.
            num_envs: Copies, stepped one after another.
            seed: Copy ``i`` is seeded with ``seed + i``, at the first reset.
            config: Sticky actions and difficulty.

        Raises:
            UserError: a seed out of range.
        """
        self._games = [Game(game, config) for _ in range(num_envs)]
        self._actions: list[int] = []
        first = self._games[0]
        observations = Box(0, 255, (CHANNELS, SIZE, SIZE), np.uint8)
        self._planes, self._action_count = first.planes, len(first.action_set)
        super().__init__(num_envs, observations, Discrete(self._action_count))
        self.seed(seed)

    def reset(self) -> npt.NDArray[np.uint8]:
        """Start new games, abandoning the current ones, and return their first observations."""
        if self._seeds[0] is not None:
            for game, seed in zip(self._games, self._seeds, strict=True):
                assert seed is not None
                game.seed(seed)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = self._lengths[:] = 0
        return self._observations([game.reset() for game in self._games])

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions of the next step, integers of shape (num_envs,).

        Raises:
            ValueError: an action outside the game's action set.
        """
        self._actions = np.asarray(actions).tolist()
        if min(self._actions) < 0 or max(self._actions) >= self._action_count:
            raise ValueError(f"actions {self._actions}: expected 0 to {self._action_count - 1}")

    def step_wait(self) -> VecEnvStepReturn:
        """Step all games and return observations, rewards, dones and infos."""
        rewards, dones = np.empty(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        infos: list[Info] = [{} for _ in range(self.num_envs)]
        states = []
        self._lengths += 1
        for index, (game, action) in enumerate(zip(self._games, self._actions, strict=True)):
            reward, over = game.act(action)
            rewards[index] = reward
            self._returns[index] += reward
            if over:
                dones[index] = True
                infos[index] = self._game_over(index, self._observations([game.state()])[0], truncated=False)
                self._returns[index] = self._lengths[index] = 0
            states.append(game.reset() if over else game.state())
        return self._observations(states), rewards, dones, infos

    def _observations(self, states: list[Planes]) -> npt.NDArray[np.uint8]:
        """Return padded planes as images, (games, channels, rows, columns), laid out with channels last in memory."""
        images = np.zeros((len(states), SIZE, SIZE, CHANNELS), np.uint8)
        np.multiply(states, _ON, out=images[..., : self._planes])
        return images.transpose(0, 3, 1, 2)

    def close(self) -> None:
        """Do nothing: the games hold no resources."""


@functools.cache
def _module(name: str) -> ModuleType:
    """Load a module of ``minatar.environments`` without importing ``minatar``."""
    package = importlib.util.find_spec("minatar")
    assert package is not None, "checked when the game's name was resolved"
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0], "environments", f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
