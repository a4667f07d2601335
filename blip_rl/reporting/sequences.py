"""Decide which runs are comparable: those with equal games, steps and evaluation settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydantic import ValidationError

from blip_rl.reporting.run_record import RunRecord, subtable
from blip_rl.reporting.visits import VisitedTasks

NORMALISERS = "random and reference scores"
_ORDER = "order of visits"

_TASK_ASPECTS = {
    "games": ("name", "game", "mode", "difficulty", "wrappers", "observation_mix_seed", "minatar"),
    "steps": ("steps",),
    NORMALISERS: ("random_score", "reference_score"),
}
"""Aspect → keys of a task in ``config.toml``."""
_RUN_ASPECTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "preprocessing of Atari": lambda config: config.get("atari"),
    "choice of actions in evaluations": lambda config: subtable(config, "evaluation").get("actions"),
    _ORDER: lambda config: _visits(config),
    "longest episode in evaluations": lambda config: subtable(config, "evaluation").get("max_episode_steps"),
}


def aspects(config: dict[str, Any], ignore: Collection[str] = ()) -> dict[str, str]:
    """Return what comparable runs have in common: name of the aspect → value as JSON.

    Args:
        config: ``config.toml``.
        ignore: Aspects to leave out, for example :data:`NORMALISERS` with observed normalisation.
    """
    tasks = config.get("tasks")
    tasks = [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    found: dict[str, object] = {
        aspect: [[task.get(key) for key in keys] for task in tasks] for aspect, keys in _TASK_ASPECTS.items()
    }
    found |= {aspect: value(config) for aspect, value in _RUN_ASPECTS.items()}
    return {
        aspect: json.dumps(value, sort_keys=True, default=str)
        for aspect, value in found.items()
        if aspect not in ignore
    }


def _visits(config: dict[str, Any]) -> object:
    """Return the task of each stage; what the recipe says where that makes no sense."""
    try:
        return VisitedTasks.model_validate(config).visits
    except ValidationError:
        return [config.get("order"), config.get("cycles")]


def differences(first: dict[str, Any], second: dict[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """Return the names of the aspects in which two runs, given as ``config.toml``, differ.

    If the games differ, other aspects of the tasks are left out.
    """
    ours, theirs = aspects(first, ignore), aspects(second, ignore)
    found = [aspect for aspect, value in ours.items() if theirs[aspect] != value]
    of_tasks = {*_TASK_ASPECTS, _ORDER} - {"games"}
    return [aspect for aspect in found if aspect not in of_tasks or "games" not in found]


def comparable_runs(runs: Sequence[RunRecord], ignore: Collection[str] = ()) -> list[list[RunRecord]]:
    """Split runs into lists of comparable runs, in the order given, which determines their colours.

    Runs with unknown tasks, which have no scores either, are put into the first list.
    """
    keys = [json.dumps(aspects(run.config, ignore)) if run.tasks else "" for run in runs]
    first = next(filter(None, keys), "")
    found: dict[str, list[RunRecord]] = {first: []}
    for run, key in zip(runs, keys, strict=True):
        found.setdefault(key or first, []).append(run)
    return list(found.values())
