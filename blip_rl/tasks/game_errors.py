"""Errors of environments, reported with the game and its seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from blip_rl.errors import RunError, UserError
from blip_rl.tasks.seeds import seed_text

Array = npt.NDArray[Any]


@contextmanager
def naming(game: str, first_seed: int | None, count: int = 1) -> Iterator[None]:
    """Convert unexpected exceptions of the block into errors that name the game and its seeds.

    Args:
        game: Name of the game.
        first_seed: Seed of the first copy; None if drawn at random.
        count: Number of copies.

    Raises:
        RunError: the block raised an exception other than UserError or RunError.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"the game {game} failed ({seed_text(first_seed, count)}): {type(error).__name__}: {error}"
        ) from error


def check_finite_step(game: str, seed: int | None, environment: int, **values: object) -> None:
    """Check that values from a game are finite: a single NaN would destroy the network's weights.

    Args:
        game: Name of the game.
        seed: Seed of the copy; None if drawn at random.
        environment: Index of the copy, from 0.
        values: Values returned by the game, by name, such as ``observation`` and ``reward``.

    Raises:
        RunError: a value is NaN or infinite; names the first one and its index.
    """
    for name, value in values.items():
        numbers = np.asarray(value)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            place = tuple(np.argwhere(~np.isfinite(numbers))[0].tolist())
            where = f" at index {', '.join(map(str, place))}" if place else ""
            raise RunError(
                f"the game {game} returned the {name} {numbers[place]}{where}: expected finite numbers "
                f"(environment {environment}, {seed_text(seed)}); correct the environment"
            )


class NamedVecEnv(VecEnvWrapper):
    """Wraps copies of one game: exceptions name it, observations and rewards are checked to be finite."""

    def __init__(self, venv: VecEnv, game: str, seed: int, first_environment: int = 0) -> None:
        """Wrap the copies.

        Args:
            venv: The copies.
            game: Name of the game.
            seed: Of the first copy.
            first_environment: Its number among all copies, for messages.
        """
        super().__init__(venv)
        self._game, self._first_environment = game, first_environment
        self._seed: int | None = seed
        self._shows_floats = np.issubdtype(venv.observation_space.dtype, np.floating)  # uint8 frames are always finite

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Give copy ``i`` the seed ``seed + i`` from the next reset on."""
        given = list(self.venv.seed(seed))
        self._seed = given[0] if given else None
        return given

    def reset(self) -> VecEnvObs:
        """Start new games.

        Raises:
            RunError: a game failed, or an observation is not finite.
        """
        with self._naming():
            observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        if self._shows_floats and not np.isfinite(cast(Array, observations)).all():
            self._refuse(observation=observations)
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one step in every game.

        Raises:
            RunError: a game failed.
        """
        with self._naming():
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the step.

        Raises:
            RunError: a game failed, or returned values that are not finite.
        """
        with self._naming():
            result = self.venv.step_wait()
        observations, rewards, dones, infos = result
        if not np.isfinite(rewards).all():
            self._refuse(reward=rewards)
        if self._shows_floats:
            if not np.isfinite(cast(Array, observations)).all():
                self._refuse(observation=observations)
            for index in np.flatnonzero(dones).tolist():
                self._check(index, observation=infos[index].get("terminal_observation", 0))
        return result

    def _refuse(self, **values: Any) -> None:
        """Raise the error of the first copy whose values are not finite."""
        for index in range(self.num_envs):
            self._check(index, **{name: value[index] for name, value in values.items()})

    def _check(self, index: int, **values: Any) -> None:
        seed = None if self._seed is None else self._seed + index
        check_finite_step(self._game, seed, self._first_environment + index, **values)

    def _naming(self) -> Any:
        return naming(self._game, self._seed, self.num_envs)
