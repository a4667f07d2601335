"""Folders that a command names, checked before anything heavy is imported: a wrong one is told of at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blip_rl.errors import UserError, did_you_mean

_RECIPE = "config.toml"
_MOST_LOOKED_AT = 1_000


def check_run(path: Path) -> None:
    """Make sure that a path is a run folder.

    Raises:
        UserError: it is not; the message names the folder that may be meant.
    """
    check_folder(path)
    if (path / _RECIPE).is_file():
        return
    inside = _runs_in(path)
    if inside:
        others = f" or another of its {len(inside)}" if len(inside) > 1 else ""
        raise UserError(f"'{path}' is not a run folder but holds some: did you mean '{inside[0]}'{others}?")
    raise UserError(f"'{path}' is not a run folder: it has no {_RECIPE} (blip-rl train creates run folders)")


def check_folder(path: Path) -> None:
    """Make sure that a path is a folder.

    Raises:
        UserError: it is not; the message names the folder that may be meant.
    """
    if path.is_dir():
        return
    if path.exists():
        around = path.parent if (path.parent / _RECIPE).is_file() else None
        hint = f": did you mean '{around}'?" if around else ": expected a folder that blip-rl train created"
        raise UserError(f"'{path}' is a file{hint}")
    hint = did_you_mean(str(path), [str(run) for run in _runs_in(path.parent)])
    raise UserError(f"folder '{path}' does not exist{hint or ': expected a folder that blip-rl train created'}")


def check_file(path: Path) -> None:
    """Make sure that a path is a file.

    Raises:
        UserError: it is not.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: expected a file")
    if not path.exists():
        raise UserError(f"file '{path}' does not exist")


def check_new_folder(path: Path) -> None:
    """Make sure that a folder can be created.

    Raises:
        UserError: something is there already, or it cannot be created there.
    """
    if os.path.lexists(path):
        raise UserError(f"output folder '{path}' exists: a run never writes into another; choose a new --out")
    _check_parent(path)


def check_writable_folder(path: Path) -> None:
    """Make sure that files can be put into a folder, which need not be there yet.

    Raises:
        UserError: they cannot.
    """
    if path.is_dir():
        if not os.access(path, os.W_OK):
            raise UserError(f"output folder '{path}' may not be written: choose another --out")
    elif os.path.lexists(path):
        raise UserError(f"output '{path}' is a file: expected a folder")
    else:
        _check_parent(path)


def task_names(run: Path) -> tuple[str, ...]:
    """Names of a run's tasks, as its recipe gives them; what else may be wrong with the recipe is not looked at.

    Raises:
        UserError: the recipe cannot be read.
    """
    from blip_rl.recipes.files import read_recipe

    tasks = read_recipe(run / _RECIPE).get("tasks")
    return tuple(str(task.get("name")) for task in tasks if isinstance(task, dict)) if isinstance(tasks, list) else ()


def check_games(games: Sequence[str], names: Sequence[str]) -> None:
    """Make sure that games are among a run's.

    Raises:
        UserError: one is not.
    """
    for game in games:
        if game not in names:
            hint = did_you_mean(game, list(names))
            raise UserError(f"this run never saw {game!r}{hint} (its games: {', '.join(names)})")


def _check_parent(path: Path) -> None:
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"output folder '{path}' cannot be created: '{parent}' is not a writable folder")


def _runs_in(path: Path) -> list[Path]:
    """Run folders inside a folder, by name; a folder of thousands of things is not searched to its end."""
    try:
        with os.scandir(path) as entries:
            inside = [path / entry.name for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False)]
        return sorted(folder for folder in inside if (folder / _RECIPE).is_file())
    except OSError:
        return []
