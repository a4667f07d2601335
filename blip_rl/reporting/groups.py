"""Group runs that differ only in their seed, and compute metrics and curves over the seeds of a group."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from blip_rl.config import RunConfig, Sections
from blip_rl.core import metrics
from blip_rl.core.intervals import FEWEST_RUNS, Estimate, describe, estimate
from blip_rl.formatting import flatten
from blip_rl.reporting.run_record import RunRecord, subtable
from blip_rl.reporting.scores import Array, Steps, is_normalised
from blip_rl.reporting.table import as_array
from blip_rl.reporting.visits import first_stage

_CURVE_RESAMPLES = 1_000
_DIFFERENCES_NAMED = 3
_SECTIONS = tuple(name for name in Sections.model_fields if name in RunConfig.model_fields)
"""What a recipe sets beside the agent and the games."""


@dataclass(frozen=True)
class Group:
    """Runs of one agent with the same settings and games, sorted by seed."""

    label: str
    runs: tuple[RunRecord, ...]
    single: tuple[RunRecord, ...] = ()
    """Runs of the method ``single`` on the same sequence, to compare with; empty without such runs and in their own
    group."""

    @property
    def first(self) -> RunRecord:
        """The run with the lowest seed, shown where only one run can be."""
        return self.runs[0]

    @property
    def learned(self) -> int:
        """Number of stages learned by every run, without runs that have learned none yet."""
        return min((run.learned for run in self.runs if run.learned), default=0)


@dataclass(frozen=True)
class Series:
    """Curves of the seeds of one group.

    Attributes:
        label: Legend entry.
        index: Colour number.
        lines: (steps, values) of each run.
        steps: (points,) steps at which every run has a value.
        centre: (points,) centre of the estimate, see :func:`blip_rl.core.intervals.estimate`; the values themselves
            for a single run; empty for two.
        low: (points,) lower end of the 95 % interval; empty with fewer than three runs.
        high: (points,) upper end.
        partial: (steps, values) of each run at evaluations with fewer episodes, which ``lines`` leave out.
    """

    label: str
    index: int
    lines: tuple[tuple[Array, Array], ...]
    steps: Array
    centre: Array
    low: Array
    high: Array
    partial: tuple[tuple[Array, Array], ...] = ()


REPEATED = "another run has the same agent, settings, games and seed: this one is left out"
"""Why a run is in no group: it is no further sample."""


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs by agent, settings and games, in the order given, with unique labels.

    Of several runs of a group with one seed only the one with the most steps is kept (:func:`repeated_runs`).
    """
    found: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        games = json.dumps([run.visits, [(task.name, task.steps) for task in run.tasks]])
        found[run.agent, json.dumps(_all_settings(run), sort_keys=True, default=str), games].append(run)
    members = [
        sorted(_one_for_each_seed(group), key=lambda run: (run.seed is None, run.seed or 0)) for group in found.values()
    ]
    single = [group for group in members if _is_single(group[0])]
    labels = _labels([group[0] for group in members])
    return [
        Group(
            label,
            tuple(group),
            () if _is_single(group[0]) else next((tuple(one) for one in single if _same_stages(one[0], group[0])), ()),
        )
        for label, group in zip(labels, members, strict=True)
    ]


def repeated_runs(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that :func:`group_runs` leaves out."""
    kept = {id(run) for group in group_runs(runs) for run in group.runs}
    return [run for run in runs if id(run) not in kept]


def _one_for_each_seed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return one run for each seed, that with the most steps, and all of unknown seed."""
    longest: dict[int, RunRecord] = {}
    for run in runs:
        if run.seed is not None and (run.seed not in longest or run.env_steps > longest[run.seed].env_steps):
            longest[run.seed] = run
    return [run for run in runs if run.seed is None or longest[run.seed] is run]


def _is_single(run: RunRecord) -> bool:
    return subtable(run.settings, "method").get("name") == "single"


def _same_stages(first: RunRecord, other: RunRecord) -> bool:
    def played(run: RunRecord) -> list[tuple[object, ...]]:  # published scores and titles are only shown
        return [(task.name, task.steps, task.random_score, task.reference_score) for task in run.tasks]

    return first.visits == other.visits and played(first) == played(other)


def _labels(firsts: Sequence[RunRecord]) -> list[str]:
    """Return the label of each group, given its first run; of equal labels all but the first get a number."""
    found: list[str] = []
    for run in firsts:
        label, number = _label(run, firsts), 2
        while label in found:
            label, number = f"{_label(run, firsts)} ({number})", number + 1
        found.append(label)
    return found


def _label(run: RunRecord, firsts: Sequence[RunRecord]) -> str:
    """Return the agent's name; if other groups have the same, append the settings that differ."""
    others = [other for other in firsts if other is not run and other.agent == run.agent]
    if not others:
        return run.agent
    own, theirs = _settings(run), [_settings(other) for other in others]
    keys = {key for other in theirs for key in {**own, **other} if own.get(key) != other.get(key)}
    parts = [f"{_short(key)}={own.get(key, 'none')}" for key in sorted(keys - {"description"})]
    more = ["…"] if len(parts) > _DIFFERENCES_NAMED else []
    return ", ".join([run.agent, *(parts[:_DIFFERENCES_NAMED] + more or [run.path.name])])


def _all_settings(run: RunRecord) -> dict[str, object]:
    """Return the agent's settings, and those of the recipe that are not about single games."""
    return {**run.settings, **{key: run.config[key] for key in _SECTIONS if key in run.config}}


def _settings(run: RunRecord) -> dict[str, str]:
    return {key: str(value) for key, value in flatten(_all_settings(run))}


def _short(key: str) -> str:
    """Return the last part of an agent's key; other keys whole, because several sections have ``every_steps``."""
    return key if key.partition(".")[0] in _SECTIONS else key.rpartition(".")[2]


def mean_matrix(group: Group, name: str) -> Array:
    """Return the (stages, tasks) mean over the runs of a matrix of :class:`RunScores`; NaN where a run has no value.

    Runs that have learned nothing yet are left out.
    """
    found = [getattr(run.scores, name) for run in group.runs if run.scores is not None and run.learned]
    return np.mean(found, axis=0) if found else np.full((group.first.stages, len(group.first.tasks)), np.nan)


def accumulated_series(group: Group, index: int) -> Series:
    """Return accumulated normalised reward against steps, drawn in colour ``index``.

    Lines contain complete evaluations only: the mean of fewer episodes differs from that of all, so the sum would
    change although no task was learned or forgotten. For the same reason a task counts from its first training step
    on, without its score before that. Tasks that are not normalised do not count.
    """
    lines, partial = [], []
    for run in group.runs:
        if run.scores is not None:
            first = [first_stage(run.scores.visits, task) for task in range(len(run.scores.tasks))]
            own = [
                curve.since(stage).later_than(run.boundaries.get(stage - 1, -1))
                for task, (curve, stage) in enumerate(zip(run.scores.curves, first, strict=True))
                if is_normalised(run.scores, task)
            ]
            steps, total = metrics.accumulated_curve([(curve.env_steps, curve.normalised) for curve in own])
            complete = ~np.isin(steps, np.concatenate([curve.env_steps[~curve.complete] for curve in own]))
            lines.append((steps[complete], total[complete]))
            partial.append((np.asarray(steps[~complete], np.float64), total[~complete]))
    return replace(over_seeds(group.label, index, lines), partial=tuple(partial))


def return_series(group: Group, index: int, task: str) -> Series:
    """Return the mean raw return on a task from the start of its training to the end of the run."""
    lines = []
    for run in group.runs:
        if run.scores is not None and task in run.scores.tasks:
            at = run.scores.tasks.index(task)
            curve = run.scores.curves[at].since(first_stage(run.scores.visits, at))
            lines.append((curve.env_steps, curve.mean_return))
    return over_seeds(group.label, index, lines)


def training_lines(group: Group, task: str) -> tuple[tuple[Array, Array], ...]:
    """Return (steps, mean returns) of the training episodes on a task for every visit of every run."""
    lines = []
    for run in group.runs:
        rows = [row for row in run.returns if row.task == task]
        for _, visit in groupby(rows, key=lambda row: row.stage):
            found = list(visit)
            lines.append((as_array(found, "env_steps"), as_array(found, "mean_return")))
    return tuple(lines)


def over_seeds(label: str, index: int, curves: Sequence[tuple[Steps | Array, Array]]) -> Series:
    """Combine the curves of several runs; estimate the centre and interval at steps that all of them share.

    Runs that have less than half of the steps of the furthest are left out if three or more have more: a seed that has
    just begun shares few steps with the others.

    Args:
        label: Legend entry.
        index: Colour number.
        curves: (steps, values) of each run. Steps may repeat, as before and after a consolidation: the n-th point at
            a step is combined with the other runs' n-th point there.
    """
    lines = tuple((np.asarray(steps, np.float64), values) for steps, values in curves if len(steps))
    furthest = max((steps[-1] for steps, _ in lines), default=0.0)
    ahead = tuple(line for line in lines if line[0][-1] >= furthest / 2)
    lines = ahead if len(ahead) >= FEWEST_RUNS else lines
    none = np.empty(0)
    if len(lines) == 1:
        return Series(label, index, lines, *lines[0], none, none)
    if len(lines) < FEWEST_RUNS:
        return Series(label, index, lines, none, none, none, none)
    points = [dict(zip(_moments(steps), values, strict=True)) for steps, values in lines]
    moments = sorted(set.intersection(*(set(one) for one in points)))
    shared = np.array([steps for steps, _ in moments])
    table = np.array([[one[moment] for moment in moments] for one in points])
    found = [estimate(column, resamples=_CURVE_RESAMPLES) for column in table.T]
    centre = np.array([one.centre for one in found])
    ends = np.array([one.interval or (np.nan, np.nan) for one in found]).reshape(-1, 2)
    return Series(label, index, lines, shared, centre, ends[:, 0], ends[:, 1])


def _moments(steps: Array) -> list[tuple[float, int]]:
    """Return (steps, number of earlier points at the same steps) of each point of a curve."""
    seen: dict[float, int] = defaultdict(int)
    found = []
    for at in steps.tolist():
        found.append((at, seen[at]))
        seen[at] += 1
    return found


def describe_series(series: Sequence[Series]) -> str:
    """Describe the lines and bands of a chart for its caption; empty if every line is a single run."""
    faint = ", single seeds (faint lines)" if len(series) == 1 and series[0].low.size else ""
    return _by_kind([(one.label, _parts(len(one.lines), "line", "band", "a line") + faint) for one in series])


def describe_estimates(labels: Sequence[str], estimates: Sequence[Estimate]) -> str:
    """Describe the marks and bars of a chart of estimates for its caption; empty if every group is one run."""
    kinds = [_parts(len(one.values), "diamond", "bar", "a point") for one in estimates]
    return _by_kind(list(zip(labels, kinds, strict=True)))


def _parts(runs: int, centre: str, interval: str, single: str) -> str:
    """Describe how the centre and the interval of ``runs`` runs are drawn; empty for one."""
    if kind := describe(runs):
        first, _, second = kind.partition(", ")
        return f"{first} over {runs} seeds ({centre}), {second} ({interval})"
    return f"{single} for each of {runs} seeds" if runs > 1 else ""


def _by_kind(kinds: Sequence[tuple[str, str]]) -> str:
    """Join (label, kind) into sentences; the kind alone if it is the same for all labels."""
    labels: dict[str, list[str]] = defaultdict(list)
    for label, kind in kinds:
        labels[kind].append(label)
    if len(labels) == 1:
        (kind,) = labels
        return f"{kind[0].upper()}{kind[1:]}." if kind else ""
    return " ".join(f"{', '.join(same)}: {kind or 'one seed'}." for kind, same in labels.items())
