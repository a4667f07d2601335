"""Read the recipe and the scores of a run folder, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blip_rl.errors import UserError
from blip_rl.untrusted.files import MOST_TASKS, read_toml
from blip_rl.untrusted.tables import table_rows

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

_COLUMNS = ("env_steps", "stage", "phase", "task", "return", "truncated", "normalised", "actions")
_PHASES = ("start", "periodic", "before", "after")
MAX_STEPS = 10**15
_ACTIONS = ("greedy", "stochastic")


@dataclass(frozen=True)
class TaskCurve:
    """Scores of one task: before its first training step, at periodic evaluations and after each consolidation.

    Attributes:
        env_steps: (points,) training steps of the whole run, strictly increasing.
        stages: (points,) number of tasks started so far.
        mean_return: (points,) mean raw return.
        normalised: (points,) mean normalised return; NaN without normalisers.
        complete: (points,) whether all ``evaluation.episodes`` were played to their end. A periodic evaluation may play
            fewer or truncate them to save time, so its mean is not comparable with that of a complete evaluation.
    """

    env_steps: Steps
    stages: Steps
    mean_return: Array
    normalised: Array
    complete: npt.NDArray[np.bool_]

    def during(self, stage: int) -> TaskCurve:
        """Return the points of one stage; for task number ``stage``, those of its own training."""
        return self._where(self.stages == stage)

    def since(self, stage: int) -> TaskCurve:
        """Return the points from a stage on; for task number ``stage``, those from the start of its training."""
        return self._where(self.stages >= stage)

    def later_than(self, env_steps: int) -> TaskCurve:
        """Return the points after a number of training steps of the whole run."""
        return self._where(self.env_steps > env_steps)

    def _where(self, chosen: npt.NDArray[np.bool_]) -> TaskCurve:
        return TaskCurve(**{name: values[chosen] for name, values in vars(self).items()})


@dataclass(frozen=True)
class RunScores:
    """Scores of one run.

    Attributes:
        agent: Name of the agent recipe.
        seed: The run's seed.
        tasks: Names, in training order.
        after: (stages, tasks) mean raw return after each stage's consolidation; NaN where not measured.
        before: The same before consolidation.
        after_normalised: ``after``, normalised.
        before_normalised: ``before``, normalised.
        curves: One for each task; empty for a task that was never evaluated.
        actions: Action selection of all episodes used here: ``greedy`` or ``stochastic``.
        other_games: Number of episodes in ``scores.csv`` with the other action selection, which are left out.
        games: Number of episodes used.
        cut_off: How many of these were truncated by a step limit, so that their returns are too low.
    """

    agent: str
    seed: int
    tasks: tuple[str, ...]
    after: Array
    before: Array
    after_normalised: Array
    before_normalised: Array
    curves: tuple[TaskCurve, ...]
    actions: str = "greedy"
    other_games: int = 0
    games: int = 0
    cut_off: int = 0


@dataclass(frozen=True)
class _Episode:
    """One row of ``scores.csv``; ``task`` is a 0-based index."""

    env_steps: int
    stage: int
    phase: str
    task: int
    score: float
    normalised: float
    cut_off: bool
    actions: str


def load_config(run: Path) -> dict[str, Any]:
    """Read ``config.toml`` without validating its contents.

    Raises:
        UserError: The file is missing, is not valid TOML or has more tasks than a run can have.
    """
    path = run / "config.toml"
    if not path.is_file():
        raise UserError(f"'{run}' is not a run folder: it has no config.toml (blip-rl train creates run folders)")
    try:
        config = read_toml(path)
    except UserError as error:
        raise UserError(f"{error}; restore the file that blip-rl train wrote") from error
    tasks = config.get("tasks")
    if isinstance(tasks, list) and len(tasks) > MOST_TASKS:
        raise UserError(f"'{path}' has {len(tasks):,} tasks: expected at most {MOST_TASKS}")
    return config


def no_recipe(run: Path, error: Exception) -> UserError:
    """Return the error to raise if ``config.toml`` is valid TOML but not a resolved recipe."""
    return UserError(
        f"'{run / 'config.toml'}' is not a resolved recipe ({error!r}): expected the file that blip-rl train wrote; "
        "restore it or train again"
    )


def chosen_actions(asked: str, found: Collection[str]) -> str:
    """Choose the action selection whose episodes are used: means never mix greedy and stochastic episodes.

    Args:
        asked: Action selection of the run's recipe.
        found: Action selections that occur in ``scores.csv``.

    Returns:
        The recipe's, or the other one if no episode used the recipe's.
    """
    return asked if asked in found or not found else sorted(found)[0]


def load_scores(run: Path, damaged: list[str] | None = None) -> RunScores:
    """Read the scores of a run from ``config.toml`` and ``scores.csv``.

    Only episodes of one action selection are used (:func:`chosen_actions`): re-scoring may have added others.

    Args:
        run: The run folder.
        damaged: If given, damaged lines of ``scores.csv`` are skipped and reported here instead of raising.

    Raises:
        UserError: A file is missing or damaged, or the two files are from different runs.
    """
    config = load_config(run)
    try:
        tasks = tuple(str(task["name"]) for task in config["tasks"])
        agent, seed = str(config["agent_name"]), int(config["seed"])
        asked = str(config.get("evaluation", {}).get("actions", "greedy"))
        wanted = int(config.get("evaluation", {}).get("episodes", 1))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise no_recipe(run, error) from error
    found = _read_episodes(run / "scores.csv", tasks, damaged)
    actions = chosen_actions(asked, {episode.actions for episode in found})
    episodes = [episode for episode in found if episode.actions == actions]
    matrices = {
        (phase, column): _matrix([episode for episode in episodes if episode.phase == phase], len(tasks), column)
        for phase in ("before", "after")
        for column in ("score", "normalised")
    }
    return RunScores(
        agent,
        seed,
        tasks,
        after=matrices["after", "score"],
        before=matrices["before", "score"],
        after_normalised=matrices["after", "normalised"],
        before_normalised=matrices["before", "normalised"],
        curves=tuple(_curve([e for e in episodes if e.task == index], wanted) for index in range(len(tasks))),
        actions=actions,
        other_games=len(found) - len(episodes),
        games=len(episodes),
        cut_off=sum(episode.cut_off for episode in episodes),
    )


def _read_episodes(path: Path, tasks: tuple[str, ...], damaged: list[str] | None) -> list[_Episode]:
    if not path.is_file():
        raise UserError(f"'{path}' is missing: it holds all scores of the run; restore it or train again")
    episodes = []
    for line, row in _read_lines(path, damaged):
        try:
            _check_row(f"'{path}', line {line}", row, tasks)
            episodes.append(_episode(f"'{path}', line {line}", row, tasks))
        except UserError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return episodes


def _read_lines(path: Path, damaged: list[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row); with ``damaged``, stop at the first part that cannot be parsed."""
    try:
        names, rows = table_rows(path, errors="strict" if damaged is None else "replace", strict=True)
    except UserError as error:
        raise UserError(f"{error}; restore it or train again") from error
    if missing := [name for name in _COLUMNS if name not in names]:
        raise UserError(f"'{path}' has no column {', '.join(missing)}: restore the header that blip-rl train wrote")
    line = 0
    try:
        for line, row in rows:
            yield line, row
    except UserError as error:
        message = f"{error}; restore it or train again"
        if damaged is None or not line:
            raise UserError(message) from error
        damaged.append(message)


def _check_row(where: str, row: dict[str, Any], tasks: tuple[str, ...]) -> None:
    complete = (
        None not in row and None not in row.values()
    )  # csv.DictReader's keys and values for surplus and missing cells
    if not complete or row["phase"] not in _PHASES or row["actions"] not in _ACTIONS:
        raise UserError(
            f"{where}: incomplete or invalid row, for example after an interrupted write; correct or delete this line"
        )
    if row["task"] not in tasks:
        raise UserError(
            f"{where}: task {row['task']!r} is not one of config.toml's ({', '.join(tasks)}); "
            "use scores.csv and config.toml of the same run"
        )


def _episode(where: str, row: dict[str, str], tasks: tuple[str, ...]) -> _Episode:
    try:
        episode = _Episode(
            env_steps=int(row["env_steps"]),
            stage=int(row["stage"]),
            phase=row["phase"],
            task=tasks.index(row["task"]),
            score=float(row["return"]),
            normalised=float(row["normalised"]) if row["normalised"] else np.nan,
            cut_off=row["truncated"] == "1",
            actions=row["actions"],
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}; correct or delete this line") from error
    if not 0 <= episode.env_steps <= MAX_STEPS:
        raise UserError(f"{where}: {episode.env_steps} steps; correct or delete this line")
    if not 0 <= episode.stage <= len(tasks):
        raise UserError(f"{where}: stage {episode.stage} of a run over {len(tasks)} tasks; correct or delete this line")
    return episode


def _matrix(episodes: list[_Episode], tasks: int, column: str) -> Array:
    """Return the (stages, tasks) mean over episodes; NaN where an episode is missing or has no value."""
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    for episode in episodes:
        if episode.stage > 0:  # stage 0 is before any training: not a row of the matrix
            values[episode.stage - 1, episode.task].append(getattr(episode, column))
    matrix = np.full((tasks, tasks), np.nan)
    for cell, scores in values.items():
        matrix[cell] = np.mean(scores)
    return matrix


def _curve(episodes: list[_Episode], wanted: int) -> TaskCurve:
    """Return one point per number of steps; of several evaluations at the same step the latest counts.

    The latest is that of the highest stage and, within a stage, the one after consolidation.

    Args:
        episodes: Episodes of one task.
        wanted: Episodes of a complete evaluation.
    """
    points: dict[int, dict[tuple[int, bool], list[_Episode]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        if episode.phase != "before":
            points[episode.env_steps][episode.stage, episode.phase == "after"].append(episode)
    chosen = [(steps, max(points[steps].items(), key=lambda item: item[0])) for steps in sorted(points)]
    return TaskCurve(
        env_steps=np.array([steps for steps, _ in chosen], dtype=np.int64),
        stages=np.array([stage for _, ((stage, _), _) in chosen], dtype=np.int64),
        mean_return=np.array([np.mean([e.score for e in found]) for _, (_, found) in chosen], dtype=np.float64),
        normalised=np.array([np.mean([e.normalised for e in found]) for _, (_, found) in chosen], dtype=np.float64),
        complete=np.array([after or _is_complete(found, wanted) for _, ((_, after), found) in chosen], dtype=bool),
    )


def _is_complete(periodic: list[_Episode], wanted: int) -> bool:
    return len(periodic) >= wanted and not any(episode.cut_off for episode in periodic)
