"""Rendering of games in native size and colours, by replaying them.

The same seed and actions give the same game. Atari games run in an emulator with the agent's settings
(:mod:`blip_rl.tasks.emulator`) but full-size colour frames, MinAtar games in :mod:`blip_rl.tasks.minatar_pictures`;
other Gymnasium environments render themselves.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from blip_rl.config import AtariConfig
from blip_rl.errors import RunError, UserError
from blip_rl.extras import install_command
from blip_rl.task_schedule import MinatarConfig, TaskConfig
from blip_rl.tasks.game_errors import check_finite_step, naming
from blip_rl.tasks.games import check_game, rom_name
from blip_rl.tasks.minatar_names import minatar_game
from blip_rl.tasks.seeds import check_seed
from blip_rl.tasks.wrappers import apply_wrappers
from blip_rl.wrapper_config import WrapperConfig

Frame = npt.NDArray[np.uint8]
"""uint8, (height, width, 3), RGB."""

_ATARI_FRAMES_PER_SECOND = 60  # of the NTSC console, and of ale-py's
_HEIGHT, _WIDTH = 210, 160  # the emulator's NTSC frame; PAL games of 250 lines are scaled to it


@dataclass(frozen=True)
class Moment:
    """Result of one step.

    Attributes:
        picture: Frame after the step; if the game is over, its last frame.
        reward: Raw reward.
        over: Whether the game has ended; it must not be stepped again.
    """

    picture: Frame
    reward: float
    over: bool


class Screen(Protocol):
    """A game that can be rendered."""

    game: str
    """Name of the game."""

    seed: int
    """Seed of the game."""

    decisions_per_second: float
    """Steps per second of the game at its native speed."""

    def reset(self) -> Frame:
        """Start the game of the seed and return its first frame."""
        ...

    def step(self, action: Any) -> Moment:
        """Take one step."""
        ...

    def close(self) -> None:
        """Free the game's resources."""
        ...


def make_screen(task: TaskConfig, atari: AtariConfig, seed: int) -> Screen:
    """Build a renderable copy of the first game of environment 0 of ``make_evaluation_env(task, atari, 1, seed)``.

    Raises:
        UserError: the game is unknown or cannot be rendered, or the seed is out of range.
    """
    check_seed(seed, 1)
    if (minatar := minatar_game(task.game)) is not None:
        from blip_rl.tasks.minatar_pictures import MinatarScreen

        return MinatarScreen(minatar, seed, task.minatar or MinatarConfig())
    rom = rom_name(check_game(task.game))
    return ControlScreen(task.game, seed, task.wrappers) if rom is None else AtariScreen(rom, seed, atari, task.flavour)


def check_pictures(task: TaskConfig, atari: AtariConfig) -> None:
    """Check that a game can be rendered, before a long computation starts.

    Raises:
        UserError: it cannot; names the package to install if that helps.
    """
    with closing(make_screen(task, atari, 0)) as screen:
        screen.reset()


def replay(screen: Screen, actions: Iterable[Any]) -> Generator[Frame, None, None]:
    """Yield the frame before each action and after the last; the screen is closed when the iteration ends.

    Raises:
        RunError: the game fails, or ends before its actions do, so it is not the game that was recorded.
    """
    with closing(screen), naming(screen.game, screen.seed):
        yield screen.reset()
        over = False
        for number, action in enumerate(actions):
            if over:
                raise RunError(
                    f"a replayed game ended after {number} decisions, earlier than the recorded one: its "
                    "environment draws from something other than its seed, so it cannot be shown"
                )
            moment = screen.step(action)
            over = moment.over
            yield moment.picture


class AtariScreen:
    """An Atari game in an emulator of its own, which follows an agent's game if given the same actions.

    As in the agent's observations, each picture is the maximum of the last two frames per colour channel, because many
    games draw sprites only in every other frame.

    Attributes:
        lives: Lives left after the last reset or step.
    """

    def __init__(
        self, rom: str, seed: int, config: AtariConfig, flavour: tuple[int | None, int | None] | None = None
    ) -> None:
        from blip_rl.tasks.emulator import load_emulator

        self.game, self.seed = rom, seed
        self._emulator = load_emulator(
            rom, 1, config, flavour, num_threads=1, img_height=_HEIGHT, img_width=_WIDTH, grayscale=False, stack_num=1
        )
        self.decisions_per_second = _ATARI_FRAMES_PER_SECOND / config.frame_skip

    def reset(self) -> Frame:
        """Start the game of the seed and return its first frame."""
        observations, info = self._emulator.reset(seed=np.array([self.seed]))
        self.lives = int(info["lives"][0])
        return _copy(observations[0, 0])

    def step(self, action: Any) -> Moment:
        """Take one step."""
        observations, rewards, terminated, truncated, info = self._emulator.step(np.array([action], dtype=np.int32))
        self.lives = int(info["lives"][0])
        over = bool(terminated[0] or truncated[0])
        last = info["final_obs"][0] if over else observations[0]  # the next game starts within the same step
        return Moment(_copy(last[0]), float(rewards[0]), over)

    def close(self) -> None:
        """Stop the emulator's thread."""
        vars(self).pop("_emulator", None)


class ControlScreen:
    """A Gymnasium environment that renders itself."""

    def __init__(self, game: str, seed: int, wrappers: Iterable[WrapperConfig] = ()) -> None:
        # Classic control renders with pygame: use no display and no sound device, and print no banner.
        for name, value in {
            "SDL_VIDEODRIVER": "dummy",
            "SDL_AUDIODRIVER": "dummy",
            "PYGAME_HIDE_SUPPORT_PROMPT": "1",
        }.items():
            os.environ.setdefault(name, value)
        self.game, self.seed = game, seed
        self._env = apply_wrappers(_make_drawing(game), wrappers, game)
        self.decisions_per_second = float(self._env.metadata.get("render_fps") or 30)

    def reset(self) -> Frame:
        """Start the game of the seed and return its first frame."""
        observation, _ = self._env.reset(seed=self.seed)
        check_finite_step(self.game, self.seed, 0, observation=observation)
        return self._picture()

    def step(self, action: Any) -> Moment:
        """Take one step."""
        observation, reward, terminated, truncated, _ = self._env.step(action)
        check_finite_step(self.game, self.seed, 0, observation=observation, reward=reward)
        return Moment(self._picture(), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _picture(self) -> Frame:
        try:
            picture = np.asarray(self._env.render())
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise UserError(
                f"game {self.game!r} cannot be rendered: {error} (classic control needs: {install_command('control')})"
            ) from error
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UserError(
                f"game {self.game!r} draws {picture.dtype} of shape {picture.shape}: expected uint8 pictures of "
                "height x width x 3; choose other games (--games)"
            )
        return _copy(picture)


def _make_drawing(game: str) -> gymnasium.Env[Any, Any]:
    """Make the environment with rgb_array rendering; checked first, as Gymnasium only warns of a missing mode."""
    try:
        with closing(gymnasium.make(game)) as env:
            modes = list(env.metadata.get("render_modes") or [])
        if "rgb_array" in modes:
            return gymnasium.make(game, render_mode="rgb_array")
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"game {game!r} cannot be made: {error}") from error
    raise UserError(
        f"game {game!r} cannot be rendered: its render modes are {', '.join(map(str, modes)) or 'none'}, expected "
        "rgb_array among them; choose other games (--games)"
    )


def _copy(picture: npt.NDArray[Any]) -> Frame:
    return np.array(picture, dtype=np.uint8)  # the emulator may overwrite its buffer
