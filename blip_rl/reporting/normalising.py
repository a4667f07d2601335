"""How the scores of a report are normalised: by the recipe, or by the observed returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blip_rl.core import metrics
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.scores import Array, RunScores


def normalised_by_recipe(runs: Sequence[RunRecord]) -> bool:
    """Return whether any game of the runs has a random and a reference score."""
    return any(task.has_normalisers for run in runs for task in run.tasks)


def rescale_observed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Normalise by the observed returns: 0 is the lowest mean return on a game in any of the runs, 1 the highest.

    A game with equal scores everywhere gets 0. Source: BLIP Fig. 4 rescales by observed rewards.
    """
    seen: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for index, name in enumerate(run.scores.tasks if run.scores else ()):
            seen[name].extend(_returns(run.scores, index))
    spans = {name: (min(values), max(values)) for name, values in seen.items() if values}
    return [replace(run, scores=_rescaled(run.scores, spans)) if run.scores else run for run in runs]


def _returns(scores: RunScores | None, task: int) -> list[float]:
    if scores is None:
        return []
    found = np.concatenate([scores.curves[task].mean_return, scores.after[:, task], scores.before[:, task]])
    return [float(value) for value in found[np.isfinite(found)]]


def _rescaled(scores: RunScores, spans: dict[str, tuple[float, float]]) -> RunScores:
    def column(values: Array, task: int) -> Array:
        low, high = spans.get(scores.tasks[task], (np.nan, np.nan))
        return np.where(np.isfinite(values), 0.0, np.nan) if low == high else metrics.normalise(values, low, high)

    def matrix(values: Array) -> Array:
        return np.stack([column(values[:, task], task) for task in range(len(scores.tasks))], axis=1)

    return replace(
        scores,
        after_normalised=matrix(scores.after),
        before_normalised=matrix(scores.before),
        lost_normalised=matrix(scores.lost) - matrix(np.zeros_like(scores.lost)),
        curves=tuple(
            replace(curve, normalised=column(curve.mean_return, task)) for task, curve in enumerate(scores.curves)
        ),
    )
