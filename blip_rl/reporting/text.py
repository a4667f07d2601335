"""Texts and numbers of the report page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from blip_rl.core.intervals import Estimate, describe
from blip_rl.formatting import flatten, score_text
from blip_rl.reporting.groups import Group, group_runs
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.summary_metrics import (
    LAST_CYCLE,
    SUMMARY_METRICS,
    VERSUS_SINGLE,
    metric_estimate,
    worst_estimate,
)
from blip_rl.reporting.visits import cycle_length
from blip_rl.step_counts import short_steps

_DASH = "–"
_FEW = 4


@dataclass(frozen=True)
class Status:
    """Progress of a run: a sentence, and the share of its planned steps."""

    run: str
    text: str
    share: float
    complete: bool


@dataclass(frozen=True)
class Overview:
    """Setup of one group: a row of the overview."""

    label: str
    description: str
    method: str
    games: str
    steps: str
    seeds: str
    actions: str
    device: str
    started: str


@dataclass(frozen=True)
class Tile:
    """One summary metric of one group; ``worst`` is its value for the worst game, empty if it has none."""

    metric: str
    meaning: str
    value: str
    spread: str
    worst: str = ""


def number(value: float, signed: bool = False) -> str:
    """Format a score with a minus sign (U+2212); a dash if it is not finite."""
    return score_text(value, signed=signed).replace("-", "−") if math.isfinite(value) else _DASH


def headline(one: Estimate, signed: bool = False) -> str:
    """Format an estimate; with two seeds, which have no interval, both values."""
    if len(one.values) == 2 and any(math.isfinite(value) for value in one.values):
        return " · ".join(number(value, signed) for value in one.values)
    return number(one.centre, signed)


def spread(one: Estimate, signed: bool = False) -> str:
    """Format the interval and its kind, or the number of seeds if there is no interval."""
    if one.interval is not None:
        low, high = one.interval
        kind = describe(len(one.values))
        return f"{number(low, signed)} to {number(high, signed)} ({kind}), {len(one.values)} seeds"
    if not one.values:
        return "no score yet"
    return "one seed" if len(one.values) == 1 else f"{len(one.values)} seeds, no interval"


def tiles(group: Group, shown: Sequence[str]) -> list[Tile]:
    """Return the summary metrics of a group that have these names."""
    found = []
    for name in shown:
        metric, one = SUMMARY_METRICS[name], metric_estimate(group, name)
        undefined = group.learned and not math.isfinite(one.centre)
        note = _why_undefined(group, name) if undefined else spread(one, metric.signed)
        found.append(Tile(name, metric.meaning, headline(one, metric.signed), note, worst_text(group, name)))
    return found


def worst_text(group: Group, name: str) -> str:
    """Return the value of a metric for the worst game; empty if it has none or is not known."""
    worst = worst_estimate(group, name)
    if worst is None or not math.isfinite(worst.centre):
        return ""
    return f"worst game: {headline(worst, SUMMARY_METRICS[name].signed)}"


def progress(group: Group) -> str:
    """Return how many games or visits a group has learned; empty if all or none."""
    first = group.first
    if not 0 < group.learned < first.stages:
        return ""
    return f"after {group.learned} of {first.stages} {unit(first)}s"


def unit(run: RunRecord) -> str:
    """Return what a run learns one after the other: a game, or a visit where games come back."""
    return "visit" if run.comes_back else "game"


def _why_undefined(group: Group, name: str) -> str:
    if name == LAST_CYCLE:
        return "no training episode ended in a last visit"
    if name in VERSUS_SINGLE and not group.single:
        return "the runs to compare with"
    if group.first.learned_together:
        return "the games were learned together"
    if name in VERSUS_SINGLE:
        return "undefined for a game, see below"
    return "needs a second game" if group.learned == 1 else "a score is missing"


def status(run: RunRecord) -> Status:
    """Return the progress of a run."""
    name = run.path.name or str(run.path)
    total, stages = max(run.planned_steps, run.env_steps), run.stages
    if run.complete:
        what = f"all {stages} {unit(run)}s" if stages > 1 else "one game"
        scored = "" if run.learned == stages else "; not scored yet (blip-rl evaluate scores it)"
        return Status(name, f"complete: {what}, {run.env_steps:,} steps{scored}", 1, True)
    if not run.tasks:
        return Status(name, "unknown without config.toml", 0, False)
    share = run.env_steps / total if total else 0.0
    text = (
        f"{run.env_steps:,} of {total:,} steps, {run.learned} of {stages} {unit(run)}s learned; "
        f"running or stopped; last written {_when(run.changed)}"
    )
    return Status(name, text, share, False)


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def overview(group: Group) -> Overview:
    """Return the setup of a group."""
    first = group.first
    settings = first.settings
    method = settings.get("method")
    return Overview(
        label=group.label,
        description=str(settings.get("description", "")),
        method=str(method.get("name", _DASH)) if isinstance(method, dict) else _DASH,
        games=_order(first) or _DASH,
        steps=_steps_each(first),
        seeds=_seeds(group.runs),
        actions=played(group.runs),
        device=", ".join(dict.fromkeys(str(run.environment.get("device", _DASH)) for run in group.runs)),
        started=min((str(run.environment.get("started", "")) for run in group.runs), default="")[:10] or _DASH,
    )


def _order(run: RunRecord) -> str:
    """Return the games in the order of their visits, one cycle if the order repeats."""
    length = cycle_length(run.visits)
    order = " → ".join(run.tasks[task].title for task in run.visits[:length])
    return f"{order}, {run.stages // length} cycles" if length < run.stages else order


def played(runs: Sequence[RunRecord]) -> str:
    """Return the action selection of the scored episodes, and how many other episodes are left out."""
    scores = [run.scores for run in runs if run.scores is not None and run.scores.episodes]
    kinds = " and ".join(dict.fromkeys(one.actions for one in scores)) or _DASH
    others = sum(one.other_episodes for one in scores)
    return f"{kinds} ({others:,} episodes with other actions left out)" if others else kinds


def _steps_each(run: RunRecord) -> str:
    each = list(dict.fromkeys(task.steps for task in run.tasks))
    if not each:
        return _DASH
    return (
        f"{short_steps(each[0])} per {unit(run)}"
        if len(each) == 1
        else ", ".join(short_steps(t.steps) for t in run.tasks)
    )


def _seeds(runs: Sequence[RunRecord]) -> str:
    return ", ".join(_DASH if run.seed is None else str(run.seed) for run in runs)


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return ``environment.json`` as (joined key, value), without empty values."""
    values = ((key, "" if value is None else str(value)) for key, value in flatten(run.environment, " "))
    return [(key, value) for key, value in values if value]


def listed(parts: Sequence[str]) -> str:
    """Join parts with semicolons."""
    return "; ".join(parts)


def title_of(parts: Sequence[Sequence[RunRecord]]) -> str:
    """Return a heading with agents and games; each part holds comparable runs."""
    agents = list(dict.fromkeys(group.label for runs in parts for group in group_runs(runs)))
    who = " and ".join(agents) if len(agents) <= 2 else f"{len(agents)} agents"
    if len(parts) > 1:
        return f"{who}: {len(parts)} parts"
    first = parts[0][0]
    games = _games(first)
    return f"{who} on {games}" if games else f"Run of {who}"


def sequence_title(run: RunRecord) -> str:
    """Return the games of a run and their steps."""
    return f"{_games(run) or 'unknown games'}, {_steps_each(run)}"


def _games(run: RunRecord) -> str:
    """Name up to four games by title, more by the name of their sequence; empty if unknown."""
    *others, last = list(dict.fromkeys(task.title for task in run.tasks)) or [""]
    if len(others) < _FEW and not any("," in game for game in (*others, last)):
        return f"{', '.join(others)} and {last}" if others else last
    return str(run.config.get("sequence_name") or f"{len(others) + 1} games")
