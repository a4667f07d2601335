"""Metrics of a run from the scores after each stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from blip_rl.config import RunConfig
from blip_rl.core import metrics
from blip_rl.core.score_matrix import select_columns
from blip_rl.reporting.scores import RunScores


@dataclass(frozen=True)
class Metrics:
    """Metrics of continual learning, defined in :mod:`blip_rl.core.metrics`; NaN where a score is missing.

    Attributes:
        acc: Mean score over all games at the end (ACC).
        worst_task: Lowest score over all games at the end.
        bwt: Backward transfer: mean over the games but the last of the score at the end − just after learning the game.
        worst_bwt: Lowest of these differences.
        forgetting: Game → score just after learning it − score at the end; without the game learned last.
        mean_forgetting: Mean over all games but the last of the best score since learning it − the score at the end.
        accumulated: Sum of the scores at the end.
    """

    acc: float
    worst_task: float
    bwt: float
    worst_bwt: float
    forgetting: dict[str, float]
    mean_forgetting: float
    accumulated: float


def run_metrics(config: RunConfig, scores: RunScores, *, normalised: bool) -> Metrics:
    """Compute the metrics of a run.

    Args:
        config: The run's configuration.
        scores: Its scores.
        normalised: Whether to use normalised scores, of the games that have them, instead of raw returns.
    """
    tasks = [index for index, task in enumerate(config.tasks) if task.has_normalisers or not normalised]
    if not tasks:
        return Metrics(math.nan, math.nan, math.nan, math.nan, {}, math.nan, math.nan)
    matrix, visits = select_columns(scores.after_normalised if normalised else scores.after, config.visits, tasks)
    lost = zip(tasks, metrics.forgetting(matrix, visits).tolist(), strict=True)
    return Metrics(
        acc=metrics.average_performance(matrix),
        worst_task=metrics.worst_performance(matrix),
        bwt=metrics.backward_transfer(matrix, visits),
        worst_bwt=metrics.worst_backward_transfer(matrix, visits),
        forgetting={config.tasks[task].name: value for task, value in lost if task != config.visits[-1]},
        mean_forgetting=metrics.mean_forgetting(matrix, visits),
        accumulated=metrics.accumulated(matrix[-1]),
    )
