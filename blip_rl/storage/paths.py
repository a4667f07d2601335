"""Validation of the paths and games given to a command, before torch is imported: mistakes are reported fast."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from blip_rl.errors import UserError, did_you_mean
from blip_rl.storage.atomic import is_temporary
from blip_rl.storage.integrity import WRITTEN_FIRST
from blip_rl.tasks.games import plain_name

_RECIPE = "config.toml"
LOCK = ".lock"  # the first file of a run folder
_MOST_LOOKED_AT = 1_000


def check_run(path: Path) -> None:
    """Check that a path is a run folder.

    Raises:
        UserError: It is not; the message suggests the folder that may be meant.
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
    """Check that a path is a folder.

    Raises:
        UserError: It is not; the message suggests the folder that may be meant.
    """
    if path.is_dir():
        return
    if path.exists():
        around = path.parent if (path.parent / _RECIPE).is_file() else None
        hint = f": did you mean '{around}'?" if around else ": expected a folder that blip-rl train created"
        raise UserError(f"'{path}' is a file{hint}")
    # Only the last names are compared: with a long parent in common any two paths would be similar.
    hint = did_you_mean(path.name, [folder.name for folder in _folders_in(path.parent) if _is_or_holds_run(folder)])
    if path.parent != Path():
        hint = hint.replace("did you mean ", f"did you mean {path.parent}{os.sep}")
    raise UserError(f"folder '{path}' does not exist{hint or ': expected a folder that blip-rl train created'}")


def check_is_file(path: Path) -> None:
    """Check that a path is a file.

    Raises:
        UserError: It is not.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: expected a file")
    if not path.exists():
        raise UserError(f"file '{path}' does not exist")


def check_new_file(path: Path) -> None:
    """Check that a recipe can be written to a new file.

    Raises:
        UserError: The path exists, does not end in ``.toml``, or its folder does not exist or is not writable.
    """
    if path.suffix != ".toml":
        raise UserError(f"'{path}': expected a name that ends in .toml, by which --agent and --games know a file")
    if os.path.lexists(path):
        raise UserError(f"'{path}' exists: choose another name, or remove it first")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"'{path.parent}' is not a folder that can be written: expected one for '{path.name}'")


def check_new_folder(path: Path) -> None:
    """Check that a folder does not exist and can be created.

    Raises:
        UserError: The path exists, or its parent is not writable.
    """
    if os.path.lexists(path):
        raise UserError(f"output folder '{path}' exists: a run never writes into another; choose a new --out")
    check_parent(path)


def check_new_run(path: Path) -> None:
    """Check that a new run can use or create a folder.

    An empty folder is allowed, and the remains of a run that was killed before it wrote its recipe.

    Raises:
        UserError: The path exists otherwise, its parent is not writable, or it is not UTF-8.
    """
    check_utf8(path)
    if not _never_begun(path):
        check_new_folder(path)


def check_utf8(path: Path) -> None:
    """Check that TensorBoard can write its files to a run folder.

    Raises:
        UserError: The path has bytes that are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"run folder {str(path)!a} is not UTF-8: expected a path that TensorBoard can write to (rename the folder, "
            "or choose another --out)"
        ) from None


def check_writable_folder(path: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Raises:
        UserError: They cannot.
    """
    if path.is_dir():
        if not os.access(path, os.W_OK):
            raise UserError(f"output folder '{path}' may not be written: choose another --out")
    elif os.path.lexists(path):
        raise UserError(f"output '{path}' is a file: expected a folder")
    else:
        check_parent(path)


def task_games(run: Path) -> dict[str, str]:
    """Return name → game of the tasks in a run's recipe, without validating the rest of the recipe.

    Raises:
        UserError: The recipe cannot be read.
    """
    from blip_rl.recipes.files import read_recipe

    tasks = read_recipe(run / _RECIPE).get("tasks")
    found = [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    return {str(task.get("name")): str(task.get("game", "")) for task in found}


def named_games(games: Sequence[str], tasks: Mapping[str, str]) -> tuple[str, ...]:
    """Resolve task names or games, in any spelling, to the names of a run's tasks; an exact name takes precedence.

    Args:
        games: Task names or games given by the user.
        tasks: Name → game of the run's tasks.

    Raises:
        UserError: No task matches, or several do: a run may play one game in several tasks.
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
    """Return whether a folder is empty or holds only files that a new run writes before its recipe."""
    if path.is_symlink() or not path.is_dir():
        return False
    try:
        with os.scandir(path) as entries:
            inside = [entry for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False)]
    except OSError:
        return False
    if not inside:
        return True
    names = {entry.name for entry in inside if not is_temporary(entry.name)}
    files = all(entry.is_file(follow_symlinks=False) for entry in inside)
    return files and LOCK in names and names <= {LOCK, *WRITTEN_FIRST}


def check_parent(path: Path) -> None:
    """Check that the nearest existing parent of a folder is writable.

    Raises:
        UserError: It is not.
    """
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"output folder '{path}' cannot be created: '{parent}' is not a writable folder")


def _runs_in(path: Path) -> list[Path]:
    """Return the run folders among the first 1,000 entries of a folder, sorted by name."""
    return [folder for folder in _folders_in(path) if (folder / _RECIPE).is_file()]


def _is_or_holds_run(folder: Path) -> bool:
    return (folder / _RECIPE).is_file() or bool(_runs_in(folder))


def _folders_in(path: Path) -> list[Path]:
    """Return the first 1,000 entries of a folder, sorted by name; none if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(path / entry.name for entry, _ in zip(entries, range(_MOST_LOOKED_AT), strict=False))
    except OSError:
        return []
