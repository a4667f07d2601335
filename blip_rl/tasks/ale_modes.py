"""Atari games in other modes and difficulties, which ale-py's ``AtariVectorEnv`` cannot set.

The games are stepped one after another in Python, with the interface of ``AtariVectorEnv`` that
:mod:`blip_rl.tasks.atari` uses. In the default mode rewards, lives and ends of games equal those of
``AtariVectorEnv``, and observations differ by rounding alone (1 of 255 grey levels in a few pixels). Exceptions:
another generator draws the number of no-ops at the start, and the last frame of a game is the true one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ale_py import Action, ALEInterface, LoggerMode, roms
from gymnasium.spaces import Box, Discrete

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError

Pixels = npt.NDArray[np.uint8]
Flavour = tuple[int | None, int | None]
"""Mode and difficulty of a game; None: its default."""
_Step = tuple[Pixels, npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]


class View(NamedTuple):
    """What is observed of a game; the names and meanings are those of ``AtariVectorEnv``."""

    img_height: int
    img_width: int
    stack_num: int
    grayscale: bool = True
    life_loss_info: bool = False
    num_threads: int = 0  # ignored


class ModeVectorEnv:
    """``num_envs`` copies of a game in one mode and difficulty.

    Attributes:
        single_observation_space: uint8, (stack_num, height, width).
        single_action_space: Indices into the action set.
    """

    def __init__(self, rom: str, num_envs: int, config: AtariConfig, flavour: Flavour, view: View) -> None:
        """Load the game ``num_envs`` times.

        Args:
            rom: ALE ROM name.
            num_envs: Number of copies.
            config: Preprocessing.
            flavour: Mode and difficulty.
            view: What is observed.

        Raises:
            UserError: the game has no such mode or difficulty.
        """
        self._games = [_Game(rom, config, flavour, view) for _ in range(num_envs)]
        shape = (view.stack_num, view.img_height, view.img_width, *([] if view.grayscale else [3]))
        self._stack = np.zeros((num_envs, *shape), dtype=np.uint8)
        self._life_loss_info = view.life_loss_info
        self._actions = np.zeros(num_envs, dtype=np.int32)
        self.single_observation_space = Box(0, 255, shape, np.uint8)
        self.single_action_space = Discrete(len(self._games[0].actions))

    def reset(self, *, seed: npt.NDArray[Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Start every game, from new seeds if they are given."""
        for index, game in enumerate(self._games):
            self._restart(index, game, None if seed is None else int(seed[index]))
        return self._stack.copy(), self._info()

    def send(self, actions: npt.NDArray[np.int32]) -> None:
        """Choose the actions of the next step."""
        self._actions = actions

    def recv(
        self,
    ) -> tuple[Pixels, npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Take the step; games that are over are restarted, and their last observations are in ``info``."""
        count = len(self._games)
        rewards = np.zeros(count, dtype=np.int64)
        terminated, truncated = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        final: list[Pixels | None] = [None] * count
        for index, (game, action) in enumerate(zip(self._games, self._actions.tolist(), strict=True)):
            lives = game.lives
            rewards[index] = game.step(action)
            self._push(index, game.frame())
            terminated[index], truncated[index] = game.terminated, game.truncated
            if game.over:
                final[index] = self._stack[index].copy()
                self._restart(index, game, None)
            elif self._life_loss_info and game.lives < lives:
                terminated[index] = True
        return self._stack.copy(), rewards, terminated, truncated, self._info() | {"final_obs": final}

    def step(self, actions: npt.NDArray[np.int32]) -> _Step:
        """Send actions and receive the step."""
        self.send(actions)
        return self.recv()

    def _restart(self, index: int, game: _Game, seed: int | None) -> None:
        game.reset(seed)
        self._stack[index] = 0
        self._push(index, game.frame())

    def _push(self, index: int, frame: Pixels) -> None:
        self._stack[index, :-1] = self._stack[index, 1:]
        self._stack[index, -1] = frame

    def _info(self) -> dict[str, Any]:
        return {
            "lives": np.array([game.lives for game in self._games], dtype=np.int32),
            "frame_number": np.array([game.emulator.getFrameNumber() for game in self._games], dtype=np.int32),
            "episode_frame_number": np.array(
                [game.emulator.getEpisodeFrameNumber() for game in self._games], dtype=np.int32
            ),
        }


class _Game:
    """One emulator with the preprocessing of ``AtariVectorEnv``."""

    def __init__(self, rom: str, config: AtariConfig, flavour: Flavour, view: View) -> None:
        self._rom, self._config, self._view = rom, config, view
        self._mode, self._difficulty = flavour
        self._noops = np.random.default_rng(0)
        self.emulator = ALEInterface()
        self.emulator.setLoggerMode(LoggerMode.Error)
        self._load(0)
        _check("modes", rom, self._mode, self.emulator.getAvailableModes())
        _check("difficulties", rom, self._difficulty, self.emulator.getAvailableDifficulties())
        full = config.full_action_space
        self.actions: list[Action] = self.emulator.getLegalActionSet() if full else self.emulator.getMinimalActionSet()
        self._screens: list[Pixels] = []

    @property
    def lives(self) -> int:
        return int(self.emulator.lives())

    @property
    def terminated(self) -> bool:
        return bool(self.emulator.game_over())

    @property
    def truncated(self) -> bool:
        # Not ALE's own limit: that would end the game within a step, AtariVectorEnv finishes the step.
        frames = int(self.emulator.getEpisodeFrameNumber())
        return frames >= self._config.max_episode_frames and not self.terminated

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def reset(self, seed: int | None) -> None:
        """Start a game: no-ops, then the fire button in games that wait for it."""
        if seed is not None:
            self._load(seed)
            self._noops = np.random.default_rng(seed)
        if self._mode is not None:
            self.emulator.setMode(self._mode)
        if self._difficulty is not None:
            self.emulator.setDifficulty(self._difficulty)
        self.emulator.reset_game()
        noops = int(self._noops.integers(1, self._config.noop_max + 1)) if self._config.noop_max else 0
        for action in [Action.NOOP] * noops + [Action.FIRE] * self._fires:
            self.emulator.act(action)
            if self.terminated:
                self.emulator.reset_game()
        self._screens = [self._screen()]

    def step(self, action: int) -> int:
        """Repeat an action for ``frame_skip`` frames, or to the end of the game; return the sum of rewards."""
        reward, self._screens, skip = 0, [], self._config.frame_skip
        for frame in range(skip):
            reward += int(self.emulator.act(self.actions[action]))
            if frame >= skip - 2 or self.terminated:
                self._screens.append(self._screen())
            if self.terminated:
                break
        return reward

    def frame(self) -> Pixels:
        """Return the newest observation: the maximum of the last two screens, which removes flicker, resized."""
        screen: Pixels = np.maximum.reduce(self._screens[-2:])
        height, width = self._view.img_height, self._view.img_width
        if screen.shape[:2] == (height, width):
            return screen
        rows, columns = _area_weights(screen.shape[0], height), _area_weights(screen.shape[1], width)
        # Colours, if any, are the last dimension.
        means = np.tensordot(columns, np.tensordot(rows, screen.astype(np.float32), 1), ((1,), (1,)))
        resized: Pixels = np.rint(means.swapaxes(0, 1)).astype(np.uint8)
        return resized

    @property
    def _fires(self) -> int:
        return int(self._config.fire_on_reset and Action.FIRE in self.actions)

    def _screen(self) -> Pixels:
        read = self.emulator.getScreenGrayscale if self._view.grayscale else self.emulator.getScreenRGB
        return np.asarray(read(), dtype=np.uint8)

    def _load(self, seed: int) -> None:
        # The emulator takes its seed and settings when it loads a ROM.
        self.emulator.setInt("random_seed", seed)
        self.emulator.setFloat("repeat_action_probability", self._config.sticky_action_probability)
        path = roms.get_rom_path(self._rom)
        if path is None:
            raise OSError(f"no ROM of {self._rom}")
        self.emulator.loadROM(path)


@functools.cache
def _area_weights(source: int, target: int) -> npt.NDArray[np.float32]:
    """Return the weights that average ``source`` pixels over the area of each of ``target`` pixels, (target, source).

    The same as OpenCV's INTER_AREA, which ``AtariVectorEnv`` uses.
    """
    edges = np.arange(target + 1) * source / target
    first, last = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)
    overlap = np.clip(np.minimum(last, pixel + 1) - np.maximum(first, pixel), 0, None)
    weights: npt.NDArray[np.float32] = (overlap * target / source).astype(np.float32)
    return weights


def _check(kinds: str, rom: str, value: int | None, available: list[int]) -> None:
    if value is not None and value not in available:
        name = {"modes": "mode", "difficulties": "difficulty"}[kinds]
        raise UserError(
            f"{name} = {value}: {rom} has the {kinds} {', '.join(map(str, available))} (choose one of them)"
        )
