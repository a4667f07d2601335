"""The pictures of a game while it is played: native size and colours, not what the agent sees.

A game is shown by playing it a second time: same seed, same actions, same game. Atari games run in an emulator set up
as the agent's (:mod:`blip_rl.tasks.emulator`), but for the picture; Gymnasium environments draw themselves.
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

from blip_rl.config import AtariConfig, TaskConfig
from blip_rl.errors import RunError, UserError
from blip_rl.tasks.failing import check_finite_step, naming
from blip_rl.tasks.games import check_game, rom_name
from blip_rl.tasks.seeds import check_seed

Frame = npt.NDArray[np.uint8]
"""uint8, shape (height, width, 3), red, green and blue."""

_ATARI_FRAMES_PER_SECOND = 60  # of the NTSC console, and of ale-py's
_HEIGHT, _WIDTH = 210, 160  # what the emulator draws; a game that draws 250 lines (PAL) is shrunk to this


@dataclass(frozen=True)
class Moment:
    """What one decision led to.

    Attributes:
        picture: After the decision; if the game is over, its last one.
        reward: Raw.
        over: Whether the game has ended; then it may not be played on.
    """

    picture: Frame
    reward: float
    over: bool


class Screen(Protocol):
    """One game that can be watched."""

    game: str
    """What is played."""

    seed: int
    """What it is played with."""

    decisions_per_second: float
    """How many decisions a second of the game holds when it is played at its own speed."""

    def reset(self) -> Frame:
        """Begin the game that the seed stands for."""
        ...

    def step(self, action: Any) -> Moment:
        """Take one decision."""
        ...

    def close(self) -> None:
        """Free what the game holds."""
        ...


def make_screen(task: TaskConfig, atari: AtariConfig, seed: int) -> Screen:
    """Return the game that environment 0 of ``make_evaluation_env(task, atari, 1, seed)`` plays first, to be watched.

    Raises:
        UserError: the game is unknown, cannot be drawn, or needs a package for it; or a seed out of range.
    """
    check_seed(seed, 1)
    rom = rom_name(check_game(task.game))
    return ControlScreen(task.game, seed) if rom is None else AtariScreen(rom, seed, atari)


def check_pictures(task: TaskConfig, atari: AtariConfig) -> None:
    """Make sure that a game can be drawn, before anything long begins.

    Raises:
        UserError: it cannot; says what to install, where that helps.
    """
    with closing(make_screen(task, atari, 0)) as screen:
        screen.reset()


def replay(screen: Screen, actions: Iterable[Any]) -> Generator[Frame, None, None]:
    """Yield the picture before each action and the one after the last; the screen is closed with the iteration.

    Raises:
        RunError: the game fails, or ends before its actions do: it was not the same game.
    """
    with closing(screen), naming(screen.game, screen.seed):
        yield screen.reset()
        over = False
        for number, action in enumerate(actions):
            if over:
                raise RunError(
                    f"a game that was played again ended after {number} decisions, earlier than the first time: its "
                    "environment draws from something other than its seed, so it cannot be shown"
                )
            moment = screen.step(action)
            over = moment.over
            yield moment.picture


class AtariScreen:
    """An Atari game in an emulator of its own, in lockstep with an agent's if it gets the same actions.

    As in the agent's frames, each picture is the brighter of the last two, colour by colour: many games draw a thing
    only in every other frame.

    Attributes:
        lives: Lives left after the last reset or step.
    """

    def __init__(self, rom: str, seed: int, config: AtariConfig) -> None:
        from blip_rl.tasks.emulator import load_emulator

        self.game, self.seed = rom, seed
        self._emulator = load_emulator(
            rom, 1, config, num_threads=1, img_height=_HEIGHT, img_width=_WIDTH, grayscale=False, stack_num=1
        )
        self.decisions_per_second = _ATARI_FRAMES_PER_SECOND / config.frame_skip

    def reset(self) -> Frame:
        """Begin the game that the seed stands for."""
        observations, info = self._emulator.reset(seed=np.array([self.seed]))
        self.lives = int(info["lives"][0])
        return _copy(observations[0, 0])

    def step(self, action: Any) -> Moment:
        """Take one decision."""
        observations, rewards, terminated, truncated, info = self._emulator.step(np.array([action], dtype=np.int32))
        self.lives = int(info["lives"][0])
        over = bool(terminated[0] or truncated[0])
        last = info["final_obs"][0] if over else observations[0]  # the next game has begun within the same step
        return Moment(_copy(last[0]), float(rewards[0]), over)

    def close(self) -> None:
        """End the emulator's thread."""
        vars(self).pop("_emulator", None)


class ControlScreen:
    """A Gymnasium environment that draws itself."""

    def __init__(self, game: str, seed: int) -> None:
        # Classic control draws with pygame, which would look for a display, a loudspeaker and someone to greet.
        for name, value in {
            "SDL_VIDEODRIVER": "dummy",
            "SDL_AUDIODRIVER": "dummy",
            "PYGAME_HIDE_SUPPORT_PROMPT": "1",
        }.items():
            os.environ.setdefault(name, value)
        self.game, self.seed = game, seed
        self._env = _make_drawing(game)
        self.decisions_per_second = float(self._env.metadata.get("render_fps") or 30)

    def reset(self) -> Frame:
        """Begin the game that the seed stands for."""
        observation, _ = self._env.reset(seed=self.seed)
        check_finite_step(self.game, self.seed, 0, observation=observation)
        return self._picture()

    def step(self, action: Any) -> Moment:
        """Take one decision."""
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
                f"game {self.game!r} cannot draw itself: {error} "
                "(classic control needs: pip install 'blip-rl[control]')"
            ) from error
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UserError(
                f"game {self.game!r} draws {picture.dtype} of shape {picture.shape}: expected uint8 pictures of "
                "height x width x 3; choose other games (--games)"
            )
        return _copy(picture)


def _make_drawing(game: str) -> gymnasium.Env[Any, Any]:
    """Make the environment that draws itself; asks first, because Gymnasium only warns of a mode that is not there."""
    try:
        with closing(gymnasium.make(game)) as env:
            modes = list(env.metadata.get("render_modes") or [])
        if "rgb_array" in modes:
            return gymnasium.make(game, render_mode="rgb_array")
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"game {game!r} cannot be made: {error}") from error
    raise UserError(
        f"game {game!r} cannot draw itself: its render modes are {', '.join(map(str, modes)) or 'none'}, expected "
        "rgb_array among them; choose other games (--games)"
    )


def _copy(picture: npt.NDArray[Any]) -> Frame:
    return np.array(picture, dtype=np.uint8)  # the emulator may write over its own
