"""Metrics over the whole run that the report compares, each one number for a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blip_rl.core import metrics, visit_metrics
from blip_rl.core.intervals import Estimate, estimate
from blip_rl.core.score_matrix import Visits, select_columns
from blip_rl.core.transfer import forward_transfer, plasticity
from blip_rl.reporting.groups import Group
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.scores import Array, is_normalised
from blip_rl.reporting.stage_values import StageValues, stage_values

LAST_CYCLE = "Last-cycle sum"
VERSUS_SINGLE = ("Forward transfer", "Plasticity")
"""Metrics that need runs of the method ``single``."""

Compute = Callable[[RunRecord, Group], float]
"""(a run that has learned at least one stage, its group) → the metric; NaN if undefined."""


@dataclass(frozen=True)
class SummaryMetric:
    """A metric of a run.

    Attributes:
        meaning: Definition in one line.
        compute: Computes it.
        higher_is_better: Whether a higher value is better.
        is_score: Whether it is a normalised score, so that 1 is the reference.
        signed: Whether it is shown with its sign.
        worst: Computes the same for the worst game; None for a metric that has none.
        applies: Whether to show it for these groups.
    """

    meaning: str
    compute: Compute
    higher_is_better: bool = True
    is_score: bool = False
    signed: bool = False
    worst: Compute | None = None
    applies: Callable[[Sequence[Group]], bool] = lambda groups: True


def shown_metrics(groups: Sequence[Group]) -> list[str]:
    """Return the names of the metrics to show for these groups."""
    return [name for name, metric in SUMMARY_METRICS.items() if metric.applies(groups)]


def metric_estimate(group: Group, name: str) -> Estimate:
    """Estimate a metric over the runs of a group that have learned at least one stage.

    Metrics of scores are over the games that have been learned by all runs and are normalised.
    """
    return _estimate(group, SUMMARY_METRICS[name].compute)


def worst_estimate(group: Group, name: str) -> Estimate | None:
    """Estimate a metric of the worst game; None for a metric that has none."""
    worst = SUMMARY_METRICS[name].worst
    return None if worst is None else _estimate(group, worst)


def _estimate(group: Group, compute: Compute) -> Estimate:
    runs = [run for run in group.runs if run.scores is not None and run.learned]
    return estimate([compute(run, group) for run in runs])


def _of_matrix(metric: Callable[[Array, Visits], float]) -> Compute:
    """Return the computation of a metric of the normalised score matrix."""

    def compute(run: RunRecord, group: Group) -> float:
        runs = [one.scores for one in group.runs if one.scores is not None and one.learned]
        visits = group.first.visits[: group.learned]
        games = [game for game in range(1 + max(visits)) if any(is_normalised(one, game) for one in runs)]
        if run.scores is None or not games:
            return float("nan")
        return metric(*select_columns(run.scores.after_normalised[: group.learned], visits, games))

    return compute


def _values(run: RunRecord, group: Group) -> tuple[StageValues, list[int]]:
    """Return the metrics of a run's stages, and the indices of the learned ones whose games are normalised."""
    values = stage_values(run)
    if values is None:
        raise ValueError("run without scores")
    return values, np.flatnonzero(values.normalised[: group.learned]).tolist()


def _stability_gaps(run: RunRecord, group: Group) -> Array:
    values, stages = _values(run, group)
    followed = [at for at in stages if at + 1 < group.learned and run.visits[at + 1] != run.visits[at]]
    return values.stability_gap[followed]


def _last_cycle_sum(run: RunRecord, group: Group) -> float:
    values, _ = _values(run, group)
    return visit_metrics.last_cycle_sum(values.training_return[: group.learned], run.visits[: group.learned])


def _forward_transfers(run: RunRecord, group: Group) -> Array:
    _, stages = _values(run, group)
    return stage_transfer(run, group)[stages]


def _plasticities(run: RunRecord, group: Group) -> Array:
    _, stages = _values(run, group)
    return stage_plasticity(run, group)[stages]


def stage_transfer(run: RunRecord, group: Group) -> Array:
    """Return forward transfer of each stage against the group's ``single`` runs, (stages,)."""
    return _against_single(run, group, lambda values: values.area, forward_transfer)


def stage_plasticity(run: RunRecord, group: Group) -> Array:
    """Return plasticity of each stage against the group's ``single`` runs, (stages,)."""
    return _against_single(run, group, lambda values: np.where(values.normalised, values.learned, np.nan), plasticity)


def _against_single(
    run: RunRecord, group: Group, of: Callable[[StageValues], Array], metric: Callable[[Array, Array], Array]
) -> Array:
    """Compare a run with the mean of the ``single`` runs, stage by stage."""
    own, single = stage_values(run), [stage_values(one) for one in group.single]
    known = [of(one) for one in single if one is not None]
    if own is None or not known:
        return np.full(run.stages, np.nan)
    return metric(of(own), np.mean(known, axis=0))


def _over(values: Callable[[RunRecord, Group], Array], aggregate: Callable[[Array], float]) -> Compute:
    """Return the computation of one number from the values of several games; NaN without any."""

    def compute(run: RunRecord, group: Group) -> float:
        found = values(run, group)
        return float(aggregate(found)) if found.size else float("nan")

    return compute


def _has_single(groups: Sequence[Group]) -> bool:
    return any(group.single for group in groups)


SUMMARY_METRICS: dict[str, SummaryMetric] = {
    "ACC": SummaryMetric(
        "mean final score over the games",
        _of_matrix(lambda matrix, visits: metrics.average_performance(matrix)),
        is_score=True,
        worst=_of_matrix(lambda matrix, visits: metrics.worst_performance(matrix)),
    ),
    "BWT": SummaryMetric(
        "mean change of the earlier games' scores since each was learned",
        _of_matrix(metrics.backward_transfer),
        signed=True,
        worst=_of_matrix(metrics.worst_backward_transfer),
    ),
    "Accumulated reward": SummaryMetric(
        "sum of the games' final scores",
        _of_matrix(lambda matrix, visits: metrics.accumulated(matrix[-1])),
        is_score=True,
    ),
    "Forgetting": SummaryMetric(
        "mean drop of the earlier games from their best scores",
        _of_matrix(metrics.mean_forgetting),
        higher_is_better=False,
        worst=_of_matrix(metrics.worst_forgetting),
    ),
    "Stability gap": SummaryMetric(
        "mean drop of a game to its lowest score while the next one is learned",
        _over(_stability_gaps, np.mean),
        higher_is_better=False,
        worst=_over(_stability_gaps, np.max),
    ),
    LAST_CYCLE: SummaryMetric(
        "sum over the games of the mean raw training return in the last visit",
        _last_cycle_sum,
        applies=lambda groups: any(group.first.comes_back for group in groups),
    ),
    "Forward transfer": SummaryMetric(
        "mean of (area − area of single) / (1 − area of single), with the area under the score on a game while it is "
        "learned",
        _over(_forward_transfers, np.mean),
        signed=True,
        worst=_over(_forward_transfers, np.min),
        applies=_has_single,
    ),
    "Plasticity": SummaryMetric(
        "mean of the score just after learning a game, divided by that of single",
        _over(_plasticities, np.mean),
        worst=_over(_plasticities, np.min),
        applies=_has_single,
    ),
}
"""Name → metric."""
