"""Construction of ale-py's emulator, shared by playing and rendering so that both run the same game."""

from __future__ import annotations

from typing import Any

from ale_py import AtariVectorEnv

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.tasks.ale_modes import Flavour, ModeVectorEnv, View

Emulator = AtariVectorEnv | ModeVectorEnv


def load_emulator(
    rom: str, num_envs: int, config: AtariConfig, flavour: Flavour | None = None, **view: Any
) -> Emulator:
    """Load a game ``num_envs`` times, with raw rewards, whole games and reset within the step that ends a game.

    Args:
        rom: ALE ROM name.
        num_envs: Games played at the same time.
        config: Determines the game, together with the seed.
        flavour: Mode and difficulty; None: the game's defaults, in ale-py's faster emulator.
        view: Further settings of ``AtariVectorEnv``: observations and number of threads.

    Raises:
        UserError: the ROM cannot be read, or the game has no such mode or difficulty.
    """
    try:
        if flavour is not None:
            return ModeVectorEnv(rom, num_envs, config, flavour, View(**view))
        return AtariVectorEnv(
            rom,
            num_envs,
            max_num_frames_per_episode=config.max_episode_frames,
            repeat_action_probability=config.sticky_action_probability,
            full_action_space=config.full_action_space,
            frameskip=config.frame_skip,
            noop_max=config.noop_max,
            use_fire_reset=config.fire_on_reset,
            autoreset_mode="SameStep",
            episodic_life=False,  # would restart the game at every lost life; life_loss_info only reports it
            reward_clipping=False,
            **view,
        )
    except OSError as error:  # ALE_ROMS_DIR names a folder without this ROM or with another version
        raise UserError(
            f"game {rom!r}: cannot read its ROM: {error} (unset ALE_ROMS_DIR to use ale-py's own)"
        ) from error
