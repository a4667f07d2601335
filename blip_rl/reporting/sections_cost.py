"""Section about what a run costs: time, speed and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from blip_rl.formatting import duration
from blip_rl.records import SpeedRow
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.groups import Group, over_seeds
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.section import Section, Table, TableRow
from blip_rl.reporting.series_figure import series_figure
from blip_rl.reporting.table import Array, as_array

_COLUMNS = (
    ("Training time", "without evaluations and consolidations"),
    ("Steps", "so far"),
    ("Steps per second", "over the training time"),
    ("Peak memory", "of the process"),
)


def cost_section(groups: Sequence[Group], writer: FigureWriter) -> Section:
    """Training time, steps per second and peak memory."""
    lead = "Training time, training steps per second, without evaluations, and peak memory."
    figures = []
    for column, title in (("steps_per_second", "Steps per second"), ("peak_memory_mb", "Peak memory, MB")):
        series = [
            over_seeds(group.label, index, [_speeds(run.speed, column) for run in group.runs if run.speed])
            for index, group in enumerate(groups)
        ]
        shown = [one for one in series if one.lines]
        if shown:
            figures.append(series_figure(f"speed-{column}", title, shown, writer, from_zero=True))
    rows = [row for group in groups if (row := _row(group)) is not None]
    note = "" if figures else "Not recorded in this run: it has no speed.csv."
    tables = (Table("", _COLUMNS, tuple(rows)),) if rows else ()
    return Section("speed", "Cost", lead, tuple(figures), note, "pair", tables=tables)


def _row(group: Group) -> TableRow | None:
    """Return the cost of the runs of a group, a mean over the seeds and the highest; None if not recorded."""
    runs = [(run, seconds) for run in group.runs if math.isfinite(seconds := training_seconds(run))]
    if not runs:
        return None
    times = [seconds for _, seconds in runs]
    rates = [run.speed[-1].env_steps / seconds for run, seconds in runs]
    memory = [max(row.peak_memory_mb for row in run.speed) for run, _ in runs]
    several = len(runs) > 1
    cells = (
        (duration(float(np.mean(times))), f"longest: {duration(max(times))}" if several else ""),
        (f"{np.mean([run.speed[-1].env_steps for run, _ in runs]):,.0f}", ""),
        (f"{np.mean(rates):,.0f}", f"slowest: {min(rates):,.0f}" if several else ""),
        (f"{np.mean(memory):,.0f} MB", f"highest: {max(memory):,.0f} MB" if several else ""),
    )
    return TableRow(group.label, f"mean of {len(runs)} seeds" if several else "", cells)


def training_seconds(run: RunRecord) -> float:
    """Return the training time of a run, from the mean speed of each stage; NaN if a stage has no speed.

    A stage's speed is a mean since the process started it, so the time of a resumed stage is an estimate.
    """
    last = {row.stage: row for row in run.speed}
    # Games that are learned at once have one stage, whose number is that of the games.
    if not last or (not run.learned_together and sorted(last) != list(range(1, max(last) + 1))):
        return math.nan
    seconds, begun = 0.0, 0
    for stage in sorted(last):
        row = last[stage]
        if not (row.steps_per_second > 0 and row.env_steps > begun):
            return math.nan
        seconds, begun = seconds + (row.env_steps - begun) / row.steps_per_second, row.env_steps
    return seconds


def _speeds(rows: Sequence[SpeedRow], column: str) -> tuple[Array, Array]:
    """Return (steps, value) with increasing steps; of several values at the same step the last."""
    last = {row.env_steps: row for row in rows if np.isfinite(getattr(row, column))}
    shown = [last[steps] for steps in sorted(last)]
    return as_array(shown, "env_steps"), as_array(shown, column)
