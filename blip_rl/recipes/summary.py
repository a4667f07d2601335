"""Length and tags of the shipped sequences, for ``blip-rl list``. Imports no heavy library and validates nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blip_rl.errors import UserError
from blip_rl.recipes.files import read_recipe, recipe_paths
from blip_rl.step_counts import parse_steps

LAPTOP_STEPS = 10_000_000
"""Most steps of all stages of a sequence with the tag ``laptop``: some hours of two cores, without Atari's emulator."""


STEPS_PER_SECOND = {"atari": 229, "minatar": 5569, "other": 2850}
"""Training speed of BLIP by kind of game on two CPU cores (of the last two kinds, on one), as measured in
``docs/benchmarks.md``."""


@dataclass(frozen=True)
class SequenceInfo:
    """One line of ``blip-rl list sequences``.

    Attributes:
        stages: Number of visits to tasks; 0 if the recipe is not readable.
        steps: Training steps of all stages.
        hours: Expected hours of training on two CPU cores, by :data:`STEPS_PER_SECOND`; without evaluations.
        tags: What it needs and is: ``atari``, ``minatar``, ``laptop``, ``cycles``, ``modes``, ``task-blind``.
    """

    name: str
    stages: int
    steps: int
    hours: float
    tags: tuple[str, ...]
    description: str


def sequence_infos() -> list[SequenceInfo]:
    """Return the shipped sequences."""
    infos = []
    for path in recipe_paths("envs"):
        try:
            infos.append(_info(path.stem, read_recipe(path)))
        except (UserError, ValueError, TypeError, LookupError, AttributeError) as error:
            infos.append(SequenceInfo(path.stem, 0, 0, 0.0, (), str(error)))
    return infos


def _info(name: str, values: dict[str, Any]) -> SequenceInfo:
    tasks = {task["name"]: task for task in values["tasks"]}
    visits = (values.get("order") or list(tasks)) * values.get("cycles", 1)
    steps = {name: parse_steps(task.get("steps", "10M")) for name, task in tasks.items()}
    kinds = {name: _kind(task["game"]) for name, task in tasks.items()}
    total = sum(steps[task] for task in visits)
    hours = sum(steps[task] / STEPS_PER_SECOND[kinds[task]] for task in visits) / 3600
    games = set(kinds.values())
    applies = {
        "atari": "atari" in games,
        "minatar": "minatar" in games,
        "laptop": "atari" not in games and total <= LAPTOP_STEPS,
        "cycles": len(visits) > len(tasks),
        "modes": any("mode" in task for task in tasks.values()),
        "task-blind": values.get("agent", {}).get("trunk", {}).get("heads") == "shared",
    }
    tags = tuple(tag for tag, given in applies.items() if given)
    return SequenceInfo(name, len(visits), total, hours, tags, str(values.get("description", "")))


def _kind(game: str) -> str:
    return "minatar" if game.startswith("MinAtar/") else "atari" if game.isidentifier() else "other"
