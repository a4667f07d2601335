"""Find and read recipe files.

Standard library only, because shell completion and ``blip-rl list`` must start fast. A recipe may be untrusted: reading
one runs no code and opens no file that it names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blip_rl.errors import UserError, did_you_mean
from blip_rl.shell import shell_command
from blip_rl.tasks.games import plain_name
from blip_rl.untrusted.files import parse_toml, read_text

Kind = Literal["agents", "envs"]

_NOUNS: dict[Kind, str] = {"agents": "agent", "envs": "sequence"}
_FIRST_SEQUENCE = "atari6"


@dataclass(frozen=True)
class RecipeInfo:
    """One line of ``blip-rl list``."""

    name: str
    path: Path
    description: str


@dataclass(frozen=True)
class GameInfo:
    """A task of a shipped sequence, which ``--games`` accepts by its name."""

    name: str
    title: str
    game: str
    sequences: tuple[str, ...]


def recipe_folder(kind: Kind) -> Path:
    """Return the folder of the shipped recipes: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def recipe_paths(kind: Kind) -> list[Path]:
    """Return the shipped recipes, sorted by name; ``atari6`` first, because its definition of a game counts."""
    return sorted(recipe_folder(kind).glob("*.toml"), key=lambda path: (path.stem != _FIRST_SEQUENCE, path.stem))


def recipe_names(kind: Kind) -> list[str]:
    """Return the names of the shipped recipes: their files' stems."""
    return [path.stem for path in recipe_paths(kind)]


def find_base(name: object) -> Path:
    """Return the shipped file that ``base = name`` of an agent recipe refers to.

    Raises:
        UserError: there is no base of this name.
    """
    paths = {path.stem: path for path in sorted((recipe_folder("agents") / "base").glob("*.toml"))}
    if isinstance(name, str) and name in paths:
        return paths[name]
    hint = did_you_mean(name[:80], list(paths)) if isinstance(name, str) else ""
    raise UserError(f"unknown base{hint} (expected a shipped one: {', '.join(paths)})")


def is_path(name: str) -> bool:
    """Return whether a recipe is given as a file rather than by its name."""
    return name.endswith(".toml")


def names_files(name: str) -> bool:
    """Return whether a run's files can be named after an agent or a sequence of this name."""
    return not {"/", os.sep} & set(name) and name.isprintable()


def split_task(name: str) -> tuple[Path, str] | None:
    """Split ``file.toml:task`` into the file and the name of one of its tasks; None if a name is not of this form."""
    before, found, task = name.partition(".toml:")
    return (Path(f"{before}.toml"), task) if found else None


def find_recipe(kind: Kind, name: str) -> Path:
    """Return the file of a recipe given by its name or its path.

    Raises:
        UserError: no shipped recipe has this name; a path is not checked here.
    """
    if is_path(name):
        return Path(name)
    if name in recipe_names(kind):
        return recipe_folder(kind) / f"{name}.toml"
    noun = _NOUNS[kind]
    hint = did_you_mean(name, recipe_names(kind)) or f": expected one of {', '.join(recipe_names(kind))}"
    known = shell_command("blip-rl", "list", f"{noun}s")
    raise UserError(f"unknown {noun} {name[:80]!r}{hint} ({known}; a file's name must end in .toml)")


def display_path(path: Path) -> str:
    """Return a path as messages show it: relative to the working directory where it lies inside."""
    try:
        text = str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        text = str(path)
    return text if text.isprintable() else repr(text)


def read_recipe(path: Path) -> dict[str, Any]:
    """Parse a TOML file; its contents are not validated.

    Raises:
        UserError: it is not a readable TOML file of at most 1 MB.
    """
    name = display_path(path)
    try:
        text = read_text(path)
    except UserError as error:
        reason = str(error).removeprefix(f"'{path}' ")
        raise UserError(f"{name}: {reason} (expected the path of a TOML recipe)") from None
    return parse_toml(text, name)


def list_agents() -> list[RecipeInfo]:
    """Return the shipped agents with their descriptions."""
    return [_info(path) for path in recipe_paths("agents")]


def list_sequences() -> list[RecipeInfo]:
    """Return the shipped sequences with their descriptions."""
    return [_info(path) for path in recipe_paths("envs")]


def list_games() -> list[GameInfo]:
    """Return the games that shipped sequences name, each once, as the first sequence defines it."""
    first: dict[str, dict[str, Any]] = {}
    sequences: dict[str, list[str]] = {}
    for path, task in _shipped_tasks():
        first.setdefault(task["name"], task)
        sequences.setdefault(task["name"], []).append(path.stem)
    return [
        GameInfo(name, str(task.get("title", "")), str(task.get("game", "")), tuple(sequences[name]))
        for name, task in first.items()
    ]


def sequence_with(game: str) -> tuple[Path, str] | None:
    """Return the first shipped sequence with a task of this name, ROM or title, and the task's name.

    An exact name comes before a ROM, and that before any other spelling: :func:`blip_rl.tasks.games.plain_name`. Tasks
    that share a head are left out: their sequence's settings make sense only for the whole sequence.
    """
    tasks = [(path, task) for path, task in _shipped_tasks() if not _shares_head(path)]
    plain = plain_name(game)
    rules: tuple[Callable[[dict[str, Any]], bool], ...] = (
        lambda task: task["name"] == game,
        lambda task: _unmodified_game(task) == game,
        lambda task: plain in {plain_name(str(t)) for t in (task["name"], task.get("title"), _unmodified_game(task))},
    )
    found = ((path, task["name"]) for applies in rules for path, task in tasks if applies(task))
    return next(found, None)


def _unmodified_game(task: dict[str, Any]) -> str | None:
    """Return the ROM or MinAtar id of a task; None for a mode and for other ids, which tasks may modify differently."""
    game = task.get("game")
    own = not {"mode", "difficulty"} & task.keys()
    return game if isinstance(game, str) and own and (game.isidentifier() or game.startswith("MinAtar/")) else None


def _shares_head(path: Path) -> bool:
    """Return whether the agent of a sequence has one head for all its tasks."""
    agent = read_recipe(path).get("agent")
    trunk = agent.get("trunk") if isinstance(agent, dict) else None
    return isinstance(trunk, dict) and trunk.get("heads") == "shared"


def _shipped_tasks() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in recipe_paths("envs"):
        try:
            tasks = read_recipe(path).get("tasks")
        except UserError:
            continue  # reported when the file itself is used; the other files stay usable
        for task in tasks if isinstance(tasks, list) else []:
            if isinstance(task, dict) and isinstance(task.get("name"), str):
                yield path, task


def _info(path: Path) -> RecipeInfo:
    try:
        description = str(read_recipe(path).get("description", ""))
    except UserError as error:
        description = str(error)
    return RecipeInfo(path.stem, path, description)
