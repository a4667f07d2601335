"""Read back the resolved recipe of a run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from blip_rl.errors import UserError


def load_config(run: Path) -> dict[str, Any]:
    """Read ``config.toml``, whatever it holds.

    Raises:
        UserError: it is missing or damaged.
    """
    path = run / "config.toml"
    if not path.is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.toml (blip-rl train creates run folders)")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}; put back the file that blip-rl train wrote") from error


def no_recipe(run: Path, error: Exception) -> UserError:
    """What to raise where ``config.toml`` is TOML, but lacks what a run writes into it."""
    return UserError(
        f"'{run / 'config.toml'}' is no resolved recipe ({error!r}): expected the file that blip-rl train wrote; "
        "put it back, or train again"
    )
