"""Games that fail say which they were: whatever an emulator or an environment raises names its game and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from blip_rl.errors import RunError, UserError


@contextmanager
def naming(game: str, first_seed: int | None, count: int = 1) -> Iterator[None]:
    """Name the game in every error of the block that is nobody's mistake.

    Args:
        game: What is played.
        first_seed: Of the first copy; None where it was drawn at random.
        count: Copies.

    Raises:
        RunError: the block raised something; with the game, its seeds and what it was.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"the game {game} failed ({_seeds(first_seed, count)}): {type(error).__name__}: {error}"
        ) from error


def _seeds(first: int | None, count: int) -> str:
    if first is None:
        return "seeds drawn at random"
    return f"seed {first}" if count == 1 else f"one of the seeds {first} to {first + count - 1}"


class NamedVecEnv(VecEnvWrapper):
    """Copies of one game whose errors say so; all else is theirs."""

    def __init__(self, venv: VecEnv, game: str, seed: int) -> None:
        super().__init__(venv)
        self._game = game
        self._seed: int | None = seed

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Give copy ``i`` the seed ``seed + i`` from the next reset on."""
        given = list(self.venv.seed(seed))
        self._seed = given[0] if given else None
        return given

    def reset(self) -> VecEnvObs:
        """Begin new games.

        Raises:
            RunError: one failed.
        """
        with self._naming():
            observations = self.venv.reset()
        self.reset_infos = self.venv.reset_infos
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one decision in every game.

        Raises:
            RunError: one failed.
        """
        with self._naming():
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the decision led to.

        Raises:
            RunError: a game failed.
        """
        with self._naming():
            return self.venv.step_wait()

    def _naming(self) -> Any:
        return naming(self._game, self._seed, self.num_envs)
