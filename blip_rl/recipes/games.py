"""What ``--games`` means: tasks of shipped sequences, whole sequences, sequence files, ROMs and Gymnasium ids."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_rl.config import SequenceConfig, TaskConfig
from blip_rl.errors import UserError
from blip_rl.recipes.files import find_recipe, is_path, list_games, read_recipe, recipe_names, sequence_with, shown
from blip_rl.recipes.problems import RecipeError, attempt, show, validated
from blip_rl.recipes.trust import import_problem
from blip_rl.untrusted.files import MOST_TASKS


@dataclass(frozen=True)
class Games:
    """What ``--games`` means: the tasks, and the sequence file whose sections apply."""

    name: str
    tasks: tuple[TaskConfig, ...]
    source: str = "defaults"
    sections: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)


def split_names(text: str, option: str = "--games") -> tuple[str, ...]:
    """Split a list at its commas.

    Raises:
        UserError: the list or one of its items is empty.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UserError(f"{option} {show(text)}: expected names separated by single commas, for example kungfu,boxing")
    check_task_count(len(names), option)
    return names


def check_task_count(tasks: int, source: str) -> None:
    """Refuse more tasks than a run can be about.

    Raises:
        UserError: there are more.
    """
    if tasks > MOST_TASKS:
        raise UserError(f"{source}: {tasks:,} tasks: expected at most {MOST_TASKS}")


def choose_games(text: str) -> Games:
    """Return the tasks of a comma-separated list, in its order.

    Preprocessing, evaluation and agent settings are those of the first sequence that the list names or takes a task
    from: a run has one of each.

    Raises:
        UserError: an empty item, a name that means nothing, a task named twice, or a faulty sequence file; all at once.
    """
    lines: list[str] = []
    parts = [part for name in split_names(text) if (part := attempt(lines, _games_of, name))]
    if lines:
        raise RecipeError(lines)
    names = [task.name for part in parts for task in part.tasks]
    check_task_count(len(names), "--games")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(
            f"--games {show(text)}: game {twice[0]!r} is given twice: a run learns each task once "
            "(to repeat a game, give its tasks different names in a sequence recipe)"
        )
    first = next((part for part in parts if part.source != "defaults"), parts[0])
    name = parts[0].name if len(parts) == 1 else "+".join(names)
    return Games(name, tuple(task for part in parts for task in part.tasks), first.source, first.sections, first.agent)


def _games_of(name: str) -> Games:
    """Return what one item of the list means."""
    if is_path(name) or name in recipe_names("envs"):
        return _read_sequence(find_recipe("envs", name))
    if found := sequence_with(name):
        path, task_name = found
        sequence = _read_sequence(path)
        tasks = tuple(task for task in sequence.tasks if task.name == task_name)
        return Games(task_name, tasks, sequence.source, sequence.sections, sequence.agent)
    from blip_rl.tasks.games import check_game

    game = check_game(name, [*(info.name for info in list_games()), *recipe_names("envs")])
    task_name = re.sub(r"[^A-Za-z0-9_.:-]+", "-", game).lstrip("_.:-")[:80] or "game"
    return Games(task_name, (TaskConfig(name=task_name, game=game, title=game.replace("_", " ")),))


def _read_sequence(path: Path) -> Games:
    """Read and check a whole sequence file."""
    values, source = read_recipe(path), shown(path)
    check_tasks_of(values, source)
    sequence = validated(SequenceConfig, values, source)
    lines = [
        f"{source}: tasks[{index}].game = {show(task.game)}: {problem}"
        for index, task in enumerate(sequence.tasks)
        if (problem := _game_problem(task.game))
    ]
    if lines:
        raise RecipeError(lines)
    sections: dict[str, Any] = {key: values[key] for key in ("atari", "evaluation", "checkpoint") if key in values}
    return Games(path.stem, sequence.tasks, source, sections, sequence.agent)


def check_tasks_of(values: dict[str, Any], source: str) -> None:
    """Refuse a file of too many tasks before each of them is looked at.

    Raises:
        UserError: there are too many.
    """
    tasks = values.get("tasks")
    check_task_count(len(tasks) if isinstance(tasks, list) else 0, source)


def _game_problem(game: str) -> str:
    from blip_rl.tasks.games import check_game

    if problem := import_problem(game):
        return problem
    try:
        check_game(game)
    except UserError as error:
        return str(error)
    return ""
