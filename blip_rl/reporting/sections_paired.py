"""Section with the differences between agents, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_rl.core.intervals import Estimate, estimate
from blip_rl.reporting.groups import Group
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.section import Section, Table, TableRow
from blip_rl.reporting.summary_metrics import SUMMARY_METRICS, Compute
from blip_rl.reporting.text import headline, spread

_METRICS = ("ACC", "BWT", "Forgetting")


def paired_section(groups: Sequence[Group]) -> list[Section]:
    """Return a table of the differences of each group from the first one; no section without equal seeds.

    Seeds decide the weights at the start and the games that are played, so runs of the same seed have part of their
    luck in common. The difference of two means with independent intervals would ignore that.
    """
    first, *others = groups
    rows = tuple(row for group in others if (row := _row(first, group)) is not None)
    if not rows:
        return []
    columns = tuple((title, meaning) for title, meaning, _ in _columns())
    lead = (
        f"Metric of the agent − metric of {first.label} in the run of the same seed; each seed gives one difference, "
        "and the interval is that of these differences. An interval that includes 0 shows no difference."
    )
    return [Section("differences", "Differences, paired by seed", lead, tables=(Table("", columns, rows),))]


def paired_estimate(first: Group, other: Group, compute: Compute) -> Estimate:
    """Estimate ``other − first`` of a metric over the seeds of both groups; arguments as below."""
    return estimate(paired_differences(first, other, compute).values())


def paired_differences(first: Group, other: Group, compute: Compute) -> dict[int, float]:
    """Return ``other − first`` of a metric by the seeds that both groups have.

    Args:
        first: The group to compare with.
        other: A group that has learned as many stages.
        compute: Computes the metric of a run.
    """
    ours, theirs = _by_seed(first), _by_seed(other)
    return {seed: compute(theirs[seed], other) - compute(ours[seed], first) for seed in ours if seed in theirs}


def _by_seed(group: Group) -> dict[int, RunRecord]:
    """Return the runs with scores by their seeds; of several with the same seed the first."""
    known = [run for run in group.runs if run.scores is not None and run.learned]
    return {run.seed: run for run in reversed(known) if run.seed is not None}


def _columns() -> list[tuple[str, str, Compute]]:
    """Return (title, definition, computation) of each column."""
    found = []
    for name in _METRICS:
        metric = SUMMARY_METRICS[name]
        found.append((name, metric.meaning, metric.compute))
        if metric.worst is not None:
            found.append((f"{name}: worst game", "the same for the worst game", metric.worst))
    return found


def _row(first: Group, other: Group) -> TableRow | None:
    """Return the differences of a group; None without a common seed, or where the groups have not learned as much."""
    if first.learned != other.learned or not _by_seed(first).keys() & _by_seed(other).keys():
        return None
    found = [paired_estimate(first, other, compute) for _, _, compute in _columns()]
    cells = tuple((headline(one, signed=True), spread(one, signed=True)) for one in found)
    return TableRow(other.label, f"− {first.label}", cells) if np.isfinite(found[0].centre) else None
