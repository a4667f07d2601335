"""ale-py's emulator, set up in one place: whoever plays a game and whoever shows it must play the same one."""

from __future__ import annotations

from typing import Any

from ale_py import AtariVectorEnv

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError


def load_emulator(rom: str, num_envs: int, config: AtariConfig, **view: Any) -> AtariVectorEnv:
    """Load a game ``num_envs`` times; raw rewards, whole games, the next one begins within the step that ends one.

    Args:
        rom: ALE ROM name.
        num_envs: Games played at the same time.
        config: Decides the game, together with the seed.
        view: Settings of ``AtariVectorEnv`` that decide what is seen of the game, and with how many threads.

    Raises:
        UserError: the ROM cannot be read.
    """
    try:
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
            episodic_life=False,  # it would restart the game at every lost life; life_loss_info only reports it
            reward_clipping=False,
            **view,
        )
    except OSError as error:  # ALE_ROMS_DIR points to a folder without this ROM, or with another version of it
        raise UserError(
            f"game {rom!r}: cannot read its ROM: {error} (unset ALE_ROMS_DIR to use ale-py's own)"
        ) from error
