"""Read the recipe and the scores of a run folder, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from blip_rl.errors import UserError, first_problem
from blip_rl.records import Actions, ScoreRow, read_rows
from blip_rl.reporting.visits import VisitedTasks
from blip_rl.untrusted.files import MOST_TASKS, read_toml

Array = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskCurve:
    """Scores of one task: before its first training step, at periodic evaluations and after each consolidation.

    Attributes:
        env_steps: (points,) training steps of the whole run, strictly increasing.
        stages: (points,) number of the stage of the evaluation; a stage is one visit to a task.
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

    def since(self, stage: int) -> TaskCurve:
        """Return the points from a stage on; from the task's first stage on, those since the start of its training."""
        return self._where(self.stages >= stage)

    def during(self, stage: int) -> TaskCurve:
        """Return the points of one stage."""
        return self._where(self.stages == stage)

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
        tasks: Names, in the order of their first visits.
        visits: Index of the task that each stage learns, (stages,); several stages where tasks come back.
        after: (stages, tasks) mean raw return after each stage's consolidation; NaN where not measured.
        before: The same before consolidation.
        after_normalised: ``after``, normalised.
        before_normalised: ``before``, normalised.
        lost: Mean raw return before − after each stage's consolidation, over the episodes (seeds) that both have, as
            re-scoring may have replaced those after it by others; NaN where there are none.
        lost_normalised: ``lost``, normalised.
        curves: One for each task; empty for a task that was never evaluated.
        actions: Action selection of all episodes used here: ``greedy`` or ``stochastic``.
        episodes: Number of episodes used.
        other_episodes: Number of episodes in ``scores.csv`` with the other action selection, which are left out.
        truncated: How many of the used ones were truncated by a step limit, so that their returns are too low.
    """

    agent: str
    seed: int
    tasks: tuple[str, ...]
    visits: tuple[int, ...]
    after: Array
    before: Array
    after_normalised: Array
    before_normalised: Array
    lost: Array
    lost_normalised: Array
    curves: tuple[TaskCurve, ...]
    actions: str
    episodes: int
    other_episodes: int
    truncated: int


def is_normalised(scores: RunScores, task: int) -> bool:
    """Return whether a task that has been scored has normalised scores, too; True if it has not been scored."""
    raw, found = scores.curves[task].mean_return, scores.curves[task].normalised
    return bool(np.isfinite(found).any() or not np.isfinite(raw).any())


class PlayedEvaluation(BaseModel):
    """``[evaluation]`` of ``config.toml``, as far as reading scores needs it."""

    actions: Actions = "greedy"
    episodes: int = 1


class _Recipe(VisitedTasks):
    """The part of ``config.toml`` that the scores need; other keys are ignored."""

    agent_name: str
    seed: int
    evaluation: PlayedEvaluation = PlayedEvaluation()


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


def no_recipe(run: Path, error: ValidationError) -> UserError:
    """Return the error to raise if ``config.toml`` is valid TOML but not a resolved recipe."""
    return UserError(
        f"'{run / 'config.toml'}' is not a resolved recipe ({first_problem(error)}): expected the file that blip-rl "
        "train wrote; restore it or train again"
    )


def chosen_actions(asked: Actions, found: Collection[Actions]) -> Actions:
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
    try:
        recipe = _Recipe.model_validate(load_config(run))
    except ValidationError as error:
        raise no_recipe(run, error) from error
    tasks, stages = recipe.names, len(recipe.visits)
    found = _read_episodes(run / "scores.csv", tasks, stages, damaged)
    actions = chosen_actions(recipe.evaluation.actions, {row.actions for row in found})
    episodes = [row for row in found if row.actions == actions]
    before, after = ([row for row in episodes if row.phase == phase] for phase in ("before", "after"))
    return RunScores(
        recipe.agent_name,
        recipe.seed,
        tasks,
        recipe.visits,
        after=_matrix(after, tasks, stages, "score"),
        before=_matrix(before, tasks, stages, "score"),
        after_normalised=_matrix(after, tasks, stages, "normalised"),
        before_normalised=_matrix(before, tasks, stages, "normalised"),
        lost=_lost(before, after, tasks, stages, "score"),
        lost_normalised=_lost(before, after, tasks, stages, "normalised"),
        curves=tuple(
            _curve([row for row in episodes if row.task == name], recipe.evaluation.episodes) for name in tasks
        ),
        actions=actions,
        episodes=len(episodes),
        other_episodes=len(found) - len(episodes),
        truncated=sum(row.truncated for row in episodes),
    )


def _read_episodes(path: Path, tasks: tuple[str, ...], stages: int, damaged: list[str] | None) -> list[ScoreRow]:
    """Return the rows of ``scores.csv``; with ``damaged``, those before the first part that cannot be parsed."""
    if not path.is_file():
        raise UserError(f"'{path}' is missing: it holds all scores of the run; restore it or train again")
    episodes: list[ScoreRow] = []
    damages: list[str] = []
    try:
        for line, row in read_rows(path, ScoreRow, errors="strict" if damaged is None else "replace", strict=True):
            if problem := _problem(row, tasks, stages):
                damages.append(f"'{path}', line {line}: {problem}")
            elif isinstance(row, ScoreRow):
                episodes.append(row)
    except UserError as error:
        damages.append(f"{error}; restore it or train again")
        if not episodes:
            raise UserError(damages[-1]) from error
    if damages and damaged is None:
        raise UserError(damages[0])
    if damaged is not None:
        damaged.extend(damages)
    return episodes


def _problem(row: ScoreRow | ValueError, tasks: tuple[str, ...], stages: int) -> str:
    """Return why a row is no score of a run over these tasks; empty if it is one."""
    if isinstance(row, ValueError):
        return f"{row}; correct or delete this line (an interrupted write leaves such lines)"
    if row.task not in tasks:
        return (
            f"task {row.task!r} is not one of config.toml's ({', '.join(tasks)}); "
            "use scores.csv and config.toml of the same run"
        )
    if row.stage > stages:
        what = f"{stages} visits to {len(tasks)} tasks" if stages > len(tasks) else f"{stages} tasks"
        return f"stage {row.stage} of a run over {what}; correct or delete this line"
    return ""


def _mean(rows: list[ScoreRow], column: str) -> float:
    """Return the mean over episodes; NaN if one has no value."""
    values = [getattr(row, column) for row in rows]
    return float(np.mean([np.nan if value is None else value for value in values]))


def _matrix(rows: list[ScoreRow], tasks: tuple[str, ...], stages: int, column: str) -> Array:
    """Return the (stages, tasks) mean over episodes; NaN where an episode is missing or has no value."""
    found: dict[tuple[int, str], list[ScoreRow]] = defaultdict(list)
    for row in rows:
        found[row.stage, row.task].append(row)
    matrix = np.full((stages, len(tasks)), np.nan)
    for (stage, task), episodes in found.items():
        if stage > 0:  # stage 0 is before any training: not a row of the matrix
            matrix[stage - 1, tasks.index(task)] = _mean(episodes, column)
    return matrix


def _lost(before: list[ScoreRow], after: list[ScoreRow], tasks: tuple[str, ...], stages: int, column: str) -> Array:
    """Return the (stages, tasks) mean difference, over the episodes that are in both lists."""
    played = [{(row.stage, row.task, row.seed): row for row in rows} for rows in (before, after)]
    shared = played[0].keys() & played[1].keys()
    first, second = ([rows[key] for key in shared] for rows in played)
    return _matrix(first, tasks, stages, column) - _matrix(second, tasks, stages, column)


def _curve(episodes: list[ScoreRow], wanted: int) -> TaskCurve:
    """Return one point per number of steps; of several evaluations at the same step the latest counts.

    The latest is that of the highest stage and, within a stage, the one after consolidation.

    Args:
        episodes: Episodes of one task.
        wanted: Episodes of a complete evaluation.
    """
    points: dict[int, dict[tuple[int, bool], list[ScoreRow]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        if episode.phase != "before":
            points[episode.env_steps][episode.stage, episode.phase == "after"].append(episode)
    chosen = [(steps, max(points[steps].items(), key=lambda item: item[0])) for steps in sorted(points)]
    return TaskCurve(
        env_steps=np.array([steps for steps, _ in chosen], dtype=np.int64),
        stages=np.array([stage for _, ((stage, _), _) in chosen], dtype=np.int64),
        mean_return=np.array([_mean(found, "score") for _, (_, found) in chosen], dtype=np.float64),
        normalised=np.array([_mean(found, "normalised") for _, (_, found) in chosen], dtype=np.float64),
        complete=np.array([after or _is_complete(found, wanted) for _, ((_, after), found) in chosen], dtype=bool),
    )


def _is_complete(periodic: list[ScoreRow], wanted: int) -> bool:
    return len(periodic) >= wanted and not any(row.truncated for row in periodic)
