"""Reference scores for normalisation: published scores of Atari games, and text that names the references."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from blip_rl.task_schedule import TaskConfig
from blip_rl.untrusted.files import read_toml

HUMAN = "human"
_UNNAMED = "the reference score of the recipe"


@functools.cache
def published_scores() -> dict[str, tuple[float, float]]:
    """Return the mean raw returns of random play and of a human, by ROM name: the 57 games of ``atari_scores.toml``."""
    table = read_toml(Path(__file__).with_name("atari_scores.toml"))
    return {rom: (float(random), float(human)) for rom, (random, human) in table.items()}


def scale_text(references: Iterable[tuple[str, str]]) -> str:
    """Return a text that explains 0 and 1 of normalised scores.

    Args:
        references: (name of a task, name of its reference score or an empty string).

    Returns:
        For example ``0 = random play, 1 = human``; with several references each is followed by its tasks in brackets.
    """
    tasks: dict[str, list[str]] = {}
    for task, reference in references:
        tasks.setdefault(reference or _UNNAMED, []).append(task)
    if len(tasks) < 2:
        return f"0 = random play, 1 = {next(iter(tasks), _UNNAMED)}"
    named = [f"{reference} ({', '.join(names)})" for reference, names in tasks.items()]
    return f"0 = random play, 1 = {', '.join(named)}"


def task_scale(tasks: Iterable[TaskConfig]) -> str:
    """Return :func:`scale_text` for tasks; tasks without random and reference score are skipped."""
    return scale_text((task.name, task.reference_name) for task in tasks if task.has_normalisers)
