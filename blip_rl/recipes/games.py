"""Resolve ``--games``: tasks of sequences, whole sequences, sequence files, ROMs and Gymnasium ids.

Gymnasium imports the package before the colon of ``package:Name-v0``, which runs its code. A person may name one with
``--games``; a recipe or run folder needs the user's trust: :mod:`blip_rl.recipes.trust`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blip_rl.config import Sections, SequenceConfig
from blip_rl.errors import UserError, did_you_mean
from blip_rl.recipe_errors import RecipeError, attempt, show, validated
from blip_rl.recipes.files import (
    display_path,
    find_recipe,
    is_path,
    list_games,
    read_recipe,
    recipe_names,
    sequence_with,
    split_task,
)
from blip_rl.recipes.trust import import_problems, trust_named
from blip_rl.reference_scores import HUMAN, published_scores
from blip_rl.task_schedule import TaskConfig
from blip_rl.tasks.minatar_names import check_installed, minatar_game
from blip_rl.untrusted.files import MOST_TASKS

_SECTIONS = tuple(name for name in Sections.model_fields if name in SequenceConfig.model_fields)
"""Keys of a sequence recipe that ``--set`` can change."""


@dataclass(frozen=True)
class Games:
    """The resolved ``--games``: tasks, order of their visits, and the sequence file whose sections apply."""

    name: str
    tasks: tuple[TaskConfig, ...]
    order: tuple[str, ...] = ()
    cycles: int = 1
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
    check_stage_count(len(names), option)
    return names


def check_stage_count(stages: int, source: str) -> None:
    """Check the number of stages of a run: tasks, or visits to tasks.

    Raises:
        UserError: there are too many.
    """
    if stages > MOST_TASKS:
        raise UserError(f"{source}: {stages:,} tasks: expected at most {MOST_TASKS}")


def choose_games(text: str) -> Games:
    """Return the tasks of a comma-separated list, in its order. A task that is listed again is visited again.

    Preprocessing, evaluation and agent settings are those of the first sequence that the list names or takes a task
    from: a run has one of each.

    Raises:
        UserError: an empty item, an unknown name, a game under two names, or an invalid sequence file; all at once.
    """
    lines: list[str] = []
    parts = [part for name in split_names(text) if (part := attempt(lines, _games_of, name))]
    if lines:
        raise RecipeError(lines)
    check_stage_count(sum(len(part.order or part.tasks) * part.cycles for part in parts), "--games")
    if len(parts) == 1:
        return parts[0]
    _check_same_tasks(text, parts)
    visits = [name for part in parts for name in (part.order or [task.name for task in part.tasks]) * part.cycles]
    tasks = {task.name: task for part in parts for task in part.tasks}
    first = next((part for part in parts if part.source != "defaults"), parts[0])
    return Games(
        name="+".join(visits),
        tasks=tuple(tasks[name] for name in dict.fromkeys(visits)),
        order=tuple(visits) if len(visits) > len(tasks) else (),
        source=first.source,
        sections=first.sections,
        agent=first.agent,
    )


def _check_same_tasks(text: str, parts: list[Games]) -> None:
    """Refuse a task that two items define differently; within one sequence a ROM may have two names."""
    from blip_rl.tasks.games import rom_name

    given: dict[str, TaskConfig] = {}
    for part in parts:
        own = {task.name: task for task in part.tasks}
        plain = [task for task in part.tasks if task.flavour is None]  # modes of a game are tasks of their own
        own |= {f"ROM {rom}": task for task in plain if (rom := rom_name(task.game))}
        if twice := [key for key in own if key in given and given[key] != own[key]]:
            first, second = given[twice[0]].name, own[twice[0]].name
            how = "with different settings" if first == second else f"as {first!r} and {second!r}"
            raise UserError(
                f"--games {show(text)}: game {twice[0].removeprefix('ROM ')!r} is given {how}: expected the same task "
                "to visit it again (name it the same way, or give its tasks different names in a sequence recipe)"
            )
        given |= own


def _games_of(name: str) -> Games:
    """Resolve one item of the list."""
    from blip_rl.tasks.games import check_game, plain_name

    sequences = {plain_name(sequence): sequence for sequence in recipe_names("envs")}
    if is_path(name):
        return _read_sequence(find_recipe("envs", name))
    if (task_of_file := split_task(name)) is not None:
        return _one_task(*task_of_file)
    if sequence := sequences.get(plain_name(name)):
        return _read_sequence(find_recipe("envs", sequence))
    if found := sequence_with(name):
        return _one_task(*found)
    game = check_game(name, [*(info.name for info in list_games()), *sequences.values()])
    trust_named(game)
    if found := sequence_with(game):  # matched by an old Gymnasium id of the ROM, such as KrullNoFrameskip-v4
        return _one_task(*found)
    task_name = re.sub(r"[^A-Za-z0-9_.:-]+", "-", game).lstrip("_.:-")[:80] or "game"
    task = TaskConfig(name=task_name, game=game, title=game.replace("_", " "))
    if minatar_game(game) is not None:
        return _with_settings_of("minatar5", task)
    return Games(task_name, (_with_published_scores(task),))


def _with_settings_of(name: str, task: TaskConfig) -> Games:
    """Return a task alone with the steps of a shipped sequence's first task, and its sections and agent."""
    sequence = _read_sequence(find_recipe("envs", name))
    task = task.model_copy(update={"steps": sequence.tasks[0].steps})
    return replace(sequence, name=task.name, tasks=(task,), order=(), cycles=1)


def _one_task(path: Path, name: str) -> Games:
    """Return one task of a sequence, with the sequence's sections."""
    return replace(_read_sequence(path, name), name=name, order=(), cycles=1)


def _with_published_scores(task: TaskConfig) -> TaskConfig:
    """Return an Atari task without scores with the published random and human scores, human as the reference."""
    from blip_rl.tasks.games import rom_name

    scored = (task.random_score, task.reference_score, task.human_score) != (None, None, None)
    if scored or task.flavour is not None:  # published scores are those of a game's default mode
        return task
    scores = published_scores().get(rom_name(task.game) or "")
    if scores is None:
        return task
    random, human = scores
    changes = {"random_score": random, "reference_score": human, "human_score": human, "reference_name": HUMAN}
    return task.model_copy(update=changes)


def _read_sequence(path: Path, task_name: str | None = None) -> Games:
    """Read a sequence file, and check the game of one of its tasks or of all.

    Raises:
        UserError: the file is invalid, a game is unknown or not trusted, or there is no task of this name.
    """
    values, source = read_recipe(path), display_path(path)
    if "base" in values or (isinstance(values.get("agent"), dict) and "base" in values["agent"]):
        raise UserError(f"{source}: base: only an agent recipe can have a base (choose the agent with --agent)")
    check_tasks_of(values, source)
    sequence = validated(SequenceConfig, values, source)
    names = [task.name for task in sequence.tasks]
    if task_name is not None and task_name not in names:
        hint = did_you_mean(task_name[:80], names)
        raise UserError(f"{source}: no task {task_name[:80]!r}{hint} (expected one of {', '.join(names)})")
    chosen = {index: task for index, task in enumerate(sequence.tasks) if task_name in (None, task.name)}
    check_installed(f"{source}: its games need", [task.game for task in chosen.values()])  # once, not for each task
    lines: list[str] = []
    tasks = tuple(
        task
        for index, given in chosen.items()
        if (task := attempt(lines, _playable, given, f"{source}: tasks[{index}]."))
    )
    if lines:
        raise RecipeError(lines)
    sections: dict[str, Any] = {key: values[key] for key in _SECTIONS if key in values}
    return Games(path.stem, tasks, sequence.order, sequence.cycles, source, sections, sequence.agent)


def _playable(task: TaskConfig, place: str) -> TaskConfig:
    """Return a task of a sequence with its canonical game name and, if it has no scores, the published ones.

    Raises:
        UserError: the game is unknown, would import what the user does not trust, or has settings of another kind of
            game.
    """
    from blip_rl.tasks.games import check_game

    if problems := import_problems(task):
        raise RecipeError([f"{place}{problem}" for problem in problems])
    place += f"game = {show(task.game)}"
    try:
        game = check_game(task.game)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if task.minatar is not None and minatar_game(game) is None:
        raise UserError(f"{place}: has settings minatar, but is not a game of MinAtar (remove them)")
    return _with_published_scores(task.model_copy(update={"game": game}))


def check_tasks_of(values: dict[str, Any], source: str) -> None:
    """Check the number of tasks in a file before each is validated.

    Raises:
        UserError: there are too many.
    """
    tasks = values.get("tasks")
    check_stage_count(len(tasks) if isinstance(tasks, list) else 0, source)
