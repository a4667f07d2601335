"""Seeds of environments: their ranges, and their numbers in tables and messages.

Evaluation and training environments must not share a seed, so an evaluation environment is reset with 2³⁰ + its
evaluation seed, and training seeds stay below 2³⁰. Tables, options and messages show evaluation seeds without the 2³⁰.
"""

from __future__ import annotations

from blip_rl.errors import UserError

FIRST_EVALUATION_SEED = 2**30
"""Seed with which the environment of evaluation seed 0 is reset."""
_SEEDS = 2**31  # the emulator stores seeds as signed 32-bit integers and takes negative ones as "none"


def check_seed(seed: int, num_envs: int) -> int:
    """Return ``seed`` if ``seed`` to ``seed + num_envs − 1``, one per environment, are valid.

    Raises:
        UserError: one of them is negative or does not fit into a signed 32-bit integer.
    """
    if not 0 <= seed <= _SEEDS - num_envs:
        raise UserError(f"seed {seed}: expected 0 to {_SEEDS - num_envs} (2^31 less one for each of {num_envs} games)")
    return int(seed)


def seed_text(first: int | None, count: int = 1) -> str:
    """Return the seeds of consecutive environments as tables and options number them.

    Args:
        first: Seed with which the first one is reset; None if drawn at random.
        count: Number of environments.
    """
    if first is None:
        return "seeds drawn at random"
    kind, shown = ("evaluation ", first - FIRST_EVALUATION_SEED) if first >= FIRST_EVALUATION_SEED else ("", first)
    return f"{kind}seed {shown}" if count == 1 else f"one of the {kind}seeds {shown} to {shown + count - 1}"
