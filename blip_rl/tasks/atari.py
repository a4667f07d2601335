"""Atari games as a stable-baselines3 ``VecEnv``: ale-py's ``AtariVectorEnv`` plays them all in C++ threads.

The emulator returns raw rewards and whole games. Reward clipping and episode ends at lost lives are applied here, on
top, so that the raw return of the whole game stays known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.tasks.ale_modes import Flavour
from blip_rl.tasks.batched import BatchedVecEnv, Info
from blip_rl.tasks.emulator import Emulator, load_emulator
from blip_rl.tasks.games import check_game, rom_name


class AtariVecEnv(BatchedVecEnv):
    """``num_envs`` copies of one Atari game as a ``VecEnv`` of stable-baselines3.

    Observations are uint8 of shape (num_envs, frame_stack, frame_size, frame_size), rewards float32 of shape
    (num_envs,). Returned arrays belong to the caller: later steps do not overwrite them.

    In training, rewards are reduced to their sign and a lost life ends an episode, if so configured; the game itself
    continues. In evaluation, rewards are raw and episodes are whole games.

    Attributes:
        lives: int32, (num_envs,), lives left in each game after the last reset or step.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        seed: int,
        config: AtariConfig,
        *,
        training: bool,
        num_threads: int = 0,
        flavour: Flavour | None = None,
    ) -> None:
        """Load the game ``num_envs`` times.

        Args:
            game: ALE ROM name, or a Gymnasium id of one.
            num_envs: Games played at the same time.
            seed: Game ``i`` is seeded with ``seed + i``, at the first reset.
            config: How frames become observations.
            training: Whether to clip rewards and end episodes at lost lives as configured, or return the raw game.
            num_threads: Emulator threads; 0: one per game, at most one per core.
            flavour: Mode and difficulty; None: the game's defaults.

        Raises:
            UserError: unknown or unreadable game, or a seed out of range.
        """
        self._emulator = _load(game, num_envs, config, training, num_threads, flavour)
        self._clip_rewards = training and config.clip_rewards
        self._stepping = False
        actions = self._emulator.single_action_space
        assert isinstance(actions, Discrete)
        self._action_count = int(actions.n)
        super().__init__(num_envs, self._emulator.single_observation_space, actions)
        self.seed(seed)

    def reset(self) -> npt.NDArray[np.uint8]:
        """Start new games, abandoning the current ones, and return their first observations."""
        if self._stepping:
            self.step_wait()
        seeds = None if self._seeds[0] is None else np.array(self._seeds)
        observations: npt.NDArray[np.uint8]
        observations, info = self._emulator.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        self._returns = np.zeros(self.num_envs, dtype=np.int64)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._first_frames = _first_frames(info)
        self.lives: npt.NDArray[np.int32] = info["lives"]
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start one step in every game; the emulator's threads run until ``step_wait``.

        Args:
            actions: Integers, shape (num_envs,), indices into the action set.

        Raises:
            ValueError: an index outside the action set. Checked here because the emulator would block forever.
        """
        actions = np.asarray(actions, dtype=np.int32)
        if actions.view(np.uint32).max() >= self._action_count:  # unsigned: a negative index is a huge one
            raise ValueError(f"actions {actions.tolist()}: expected 0 to {self._action_count - 1}")
        self._emulator.send(actions)
        self._stepping = True

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, dones and infos of the step that ``step_async`` started."""
        observations, rewards, terminated, truncated, info = self._emulator.recv()
        self._stepping = False
        self._returns += rewards
        self._lengths += 1
        self.lives = info["lives"]
        infos: list[Info] = [{} for _ in range(self.num_envs)]
        dones = terminated | truncated
        if dones.any():
            self._report_ends(dones, truncated, observations, info, infos)
        if self._clip_rewards:
            rewards = np.sign(rewards)  # raw rewards are integers, so their sign equals clipping to [-1, 1]
        return observations, rewards.astype(np.float32), dones, infos

    def _report_ends(
        self,
        dones: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        observations: npt.NDArray[np.uint8],
        info: Info,
        infos: list[Info],
    ) -> None:
        """Fill ``infos`` of games that are over (restarted by the emulator) and of games that lost a life."""
        first_frames = _first_frames(info)
        restarted = first_frames != self._first_frames
        for index in np.flatnonzero(dones).tolist():
            if restarted[index]:
                infos[index] = self._game_over(index, info["final_obs"][index], bool(truncated[index]))
            else:
                infos[index] = {"terminal_observation": observations[index]}
        self._returns[restarted] = 0
        self._lengths[restarted] = 0
        self._first_frames = first_frames

    def close(self) -> None:
        """Stop the emulator's threads and free its memory; idempotent."""
        vars(self).pop("_emulator", None)


def _load(
    game: str, num_envs: int, config: AtariConfig, training: bool, num_threads: int, flavour: Flavour | None
) -> Emulator:
    rom = rom_name(game)
    if rom is None:
        raise UserError(f"game {check_game(game)!r} is no Atari game: expected an ALE ROM name such as kung_fu_master")
    return load_emulator(
        rom,
        num_envs,
        config,
        flavour,
        num_threads=num_threads,
        img_height=config.frame_size,
        img_width=config.frame_size,
        stack_num=config.frame_stack,
        life_loss_info=training and config.lost_life_ends_episode,
    )


def _first_frames(info: Info) -> npt.NDArray[np.int32]:
    """Return the emulator's frame number at which each current game began, (num_envs,).

    It changes if and only if a game has been restarted. The frame number within the game would not do: after a game
    shorter than the no-ops at the start of the next one, it increases.
    """
    first: npt.NDArray[np.int32] = info["frame_number"] - info["episode_frame_number"]
    return first
