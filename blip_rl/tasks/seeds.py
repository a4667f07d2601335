"""Validation of environment seeds."""

from __future__ import annotations

from blip_rl.errors import UserError

_SEEDS = 2**31  # the emulator stores seeds as signed 32-bit integers and takes negative ones as "none"


def check_seed(seed: int, num_envs: int) -> int:
    """Return ``seed`` if ``seed`` to ``seed + num_envs − 1``, one per environment, are valid.

    Raises:
        UserError: one of them is negative or does not fit into a signed 32-bit integer.
    """
    if not 0 <= seed <= _SEEDS - num_envs:
        raise UserError(f"seed {seed}: expected 0 to {_SEEDS - num_envs} (2^31 less one for each of {num_envs} games)")
    return int(seed)
