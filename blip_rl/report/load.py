"""Read a run folder's evidence back as arrays."""

from __future__ import annotations

import csv
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blip_rl.errors import UserError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunScores:
    """The scores of one run.

    Attributes:
        agent: Name of the agent recipe.
        seed: The run's seed.
        tasks: Names, in the order they were learned.
        after: (stages, tasks) mean raw return after each stage's consolidation; NaN where not measured.
        before: The same before consolidation.
        after_normalised: ``after``, normalised.
        before_normalised: ``before``, normalised.
    """

    agent: str
    seed: int
    tasks: tuple[str, ...]
    after: Array
    before: Array
    after_normalised: Array
    before_normalised: Array


def load_scores(run: Path) -> RunScores:
    """Read ``config.toml`` and ``scores.csv`` of a run folder.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        tasks = tuple(str(task["name"]) for task in config["tasks"])
        with (run / "scores.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        actions = str(config.get("evaluation", {}).get("actions", "greedy"))
        rows = [row for row in rows if row["actions"] == actions]  # a later re-scoring may have added others
        matrices = {
            (phase, column): _matrix(rows, tasks, phase, column)
            for phase in ("before", "after")
            for column in ("return", "normalised")
        }
        agent, seed = str(config["agent_name"]), int(config["seed"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"'{run}' cannot be read as a run folder: {error!r}") from error
    return RunScores(
        agent,
        seed,
        tasks,
        after=matrices["after", "return"],
        before=matrices["before", "return"],
        after_normalised=matrices["after", "normalised"],
        before_normalised=matrices["before", "normalised"],
    )


def _matrix(rows: list[dict[str, str]], tasks: tuple[str, ...], phase: str, column: str) -> Array:
    """Mean over episodes of one column, for every stage and task; NaN where there is no episode or no value."""
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        if row["phase"] == phase:
            key = (int(row["stage"]) - 1, tasks.index(row["task"]))
            values[key].append(float(row[column]) if row[column] else np.nan)
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    for (stage, task), scores in values.items():
        matrix[stage, task] = np.mean(scores)
    return matrix
