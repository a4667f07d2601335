"""Folders that a command names, checked before anything heavy is imported: a wrong one is told of at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from blip_rl.errors import UserError, did_you_mean
from blip_rl.tasks.games import plain_name

_RECIPE = "config.toml"
_LOCK = ".lock"  # the first file of a run folder
_MOST_LOOKED_AT = 1_000


def check_run(path: Path) -> None:
    """Make sure that a path is a run folder.

    Raises:
        UserError: it is not; the message names the folder that may be meant.
    """
    check_is_folder(path)
    if (path / _RECIPE).is_file():
        return
    inside = _runs_in(path)
    if inside:
        others = f" or another of its {len(inside)}" if len(inside) > 1 else ""
        raise UserError(f"'{path}' is not a run folder but holds some: did you mean '{inside[0]}'{others}?")
    raise UserError(f"'{path}' is not a run folder: it has no {_RECIPE} (blip-rl train creates run folders)")


def check_is_folder(path: Path) -> None:
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


def check_is_file(path: Path) -> None:
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
    check_parent(path)


def check_new_run(path: Path) -> None:
    """Make sure that a training can create its folder.

    It can use an empty folder, and what is left of a run that was killed before it had a recipe.

    Raises:
        UserError: something else is there, or the folder cannot be created.
    """
    if not _never_begun(path):
        check_new_folder(path)


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
        check_parent(path)


def task_games(run: Path) -> dict[str, str]:
    """Name → game of a run's tasks, as its recipe gives them; other mistakes in the recipe are not looked for.

    Raises:
        UserError: the recipe cannot be read.
    """
    from blip_rl.recipes.files import read_recipe

    tasks = read_recipe(run / _RECIPE).get("tasks")
    found = [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    return {str(task.get("name")): str(task.get("game", "")) for task in found}


def named_games(games: Sequence[str], tasks: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the run's tasks that were asked for by name or game, in any spelling; an exact name comes first.

    Args:
        games: What was asked for.
        tasks: Name → game of the run's tasks.

    Raises:
        UserError: none of them, or several: a run may play one game in several tasks.
    """
    return tuple(_named_game(game, tasks) for game in games)


def _named_game(asked: str, tasks: Mapping[str, str]) -> str:
    if asked in tasks:
        return asked
    plain = plain_name(asked)
    found = [name for name, game in tasks.items() if plain in (plain_name(name), plain_name(game))]
    if len(found) > 1:
        raise UserError(f"{asked!r} is played by several games of this run: expected one of {', '.join(found)}")
    if not found:
        hint = did_you_mean(asked, list(tasks))
        raise UserError(f"this run never saw {asked!r}{hint} (its games: {', '.join(tasks)})")
    return found[0]


def _never_begun(path: Path) -> bool:
    """Whether a folder is empty or holds only what a new run writes before its recipe."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        with os.scandir(path) as entries:
            inside = [entry for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False)]
    except OSError:
        return False
    if not inside:
        return True
    names = {entry.name for entry in inside}
    if _RECIPE in names or _LOCK not in names:  # a finished or foreign folder, refused before torch is imported
        return False
    from blip_rl.storage.integrity import WRITTEN_FIRST  # imports torch

    files = all(entry.is_file(follow_symlinks=False) for entry in inside)
    return files and names <= {_LOCK, f".{_RECIPE}.writing", *WRITTEN_FIRST}


def check_parent(path: Path) -> None:
    """Make sure that a folder can be created where it is meant to be; whether it is there already is not asked.

    Raises:
        UserError: it cannot.
    """
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
