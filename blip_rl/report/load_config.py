"""Read back the resolved recipe of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blip_rl.errors import UserError
from blip_rl.untrusted.files import MOST_TASKS, read_toml


def load_config(run: Path) -> dict[str, Any]:
    """Read ``config.toml``, whatever it holds.

    Raises:
        UserError: it is missing or damaged, or names more tasks than a run can have.
    """
    path = run / "config.toml"
    if not path.is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.toml (blip-rl train creates run folders)")
    try:
        config = read_toml(path)
    except UserError as error:
        raise UserError(f"{error}; put back the file that blip-rl train wrote") from error
    tasks = config.get("tasks")
    if isinstance(tasks, list) and len(tasks) > MOST_TASKS:
        raise UserError(f"'{path}' has {len(tasks):,} tasks: expected at most {MOST_TASKS}")
    return config


def no_recipe(run: Path, error: Exception) -> UserError:
    """What to raise where ``config.toml`` is TOML, but lacks what a run writes into it."""
    return UserError(
        f"'{run / 'config.toml'}' is no resolved recipe ({error!r}): expected the file that blip-rl train wrote; "
        "put it back, or train again"
    )
