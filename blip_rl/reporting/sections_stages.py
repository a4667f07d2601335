"""Section with a table of what was learned, lost and relearned in each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blip_rl.reporting.groups import Group
from blip_rl.reporting.run_record import RunRecord
from blip_rl.reporting.scores import Array, is_normalised
from blip_rl.reporting.section import Section, Table, TableRow
from blip_rl.reporting.stage_values import StageValues, stage_values
from blip_rl.reporting.summary_metrics import stage_plasticity, stage_transfer
from blip_rl.reporting.text import number
from blip_rl.step_counts import short_steps

_NOTHING = ("–", "")


@dataclass(frozen=True)
class _Stages:
    """The values of a group's runs.

    Attributes:
        group: The group.
        runs: Those that have learned at least one stage.
        values: Of each of these runs.
        transfer: (stages,) forward transfer, mean over the runs.
        plasticity: (stages,) plasticity, mean over the runs.
    """

    group: Group
    runs: tuple[RunRecord, ...]
    values: tuple[StageValues, ...]
    transfer: Array
    plasticity: Array

    def mean(self, of: Callable[[StageValues], Array], stage: int) -> float:
        """Return the mean over the runs of a value of one stage; NaN if a run has none."""
        return float(np.mean([of(values)[stage - 1] for values in self.values]))


Cell = tuple[str, str]
"""A value, and a remark below it."""


@dataclass(frozen=True)
class _Column:
    """A column of the table: its name, its definition in one line, and the cell of a stage."""

    name: str
    meaning: str
    cell: Callable[[_Stages, int], Cell]


def stages_section(groups: Sequence[Group]) -> Section:
    """A table of each group with one row for each visit to a game."""
    lead = (
        "One row for each game that was learned, for each visit where games come back. Scores are normalised, "
        "unless the row says otherwise."
    )
    apart = [group for group in groups if not group.first.learned_together]
    found = [(group, stages) for group in apart if (stages := _stages(group)).values]
    tables = [_table(stages, group.label if len(groups) > 1 else "") for group, stages in found]
    note = "" if tables else "No game has been scored just after its training."
    seeds = any(len(stages.runs) > 1 for _, stages in found)
    single = next((group.single[0].agent for group, _ in found if group.single), None)
    notes = [note, "Means over the seeds." if seeds else ""]
    notes += [f"single: the runs of {single}, which learn each game with a new network."] if single else []
    return Section("stages", "Learning each game", lead, note=" ".join(filter(None, notes)), tables=tuple(tables))


def _stages(group: Group) -> _Stages:
    known = [(run, values) for run in group.runs if run.learned and (values := stage_values(run)) is not None]
    runs = tuple(run for run, _ in known)
    transfer, plasticity = (
        np.mean([of(run, group) for run in runs], axis=0)
        if runs and group.single
        else np.full(group.first.stages, np.nan)
        for of in (stage_transfer, stage_plasticity)
    )
    return _Stages(group, runs, tuple(values for _, values in known), transfer, plasticity)


def _table(stages: _Stages, label: str) -> Table:
    run, learned = stages.group.first, stages.group.learned
    shown = [stage for stage in range(1, learned + 1) if np.isfinite(stages.mean(lambda one: one.learned, stage))]
    shown.sort(key=lambda stage: (run.visits[stage - 1], stage))  # the visits to a game below each other
    columns = [column for column in _columns(stages) if any(column.cell(stages, s) != _NOTHING for s in shown)]
    return Table(
        label,
        tuple((column.name, column.meaning) for column in columns),
        tuple(
            TableRow(run.stage_title(s), _remark(stages, s), tuple(column.cell(stages, s) for column in columns))
            for s in shown
        ),
    )


def _remark(stages: _Stages, stage: int) -> str:
    return "" if _normalised(stages, stage) else "raw returns: not normalised"


def _normalised(stages: _Stages, stage: int) -> bool:
    task = stages.group.first.visits[stage - 1]
    return any(is_normalised(run.scores, task) for run in stages.runs if run.scores is not None)


def _columns(stages: _Stages) -> list[_Column]:
    own = [
        _Column("Just after", "score at the end of the visit", _learned),
        _Column("Forgotten between visits", "score after the previous visit − score before this one", _forgotten),
        _Column("Steps to relearn", "steps of the visit until the score after the previous one was back", _relearned),
        _Column("Stability gap", "score just after − lowest score while the next game was learned", _gap),
    ]
    compared = [
        _Column(
            "Forward transfer",
            "(area − area of single) / (1 − area of single), with the area under the score during the visit",
            lambda stages, stage: _cell(float(stages.transfer[stage - 1]), signed=True),
        ),
        _Column(
            "Plasticity",
            "score just after / that of single; 1: learns as well as a new network",
            lambda stages, stage: _cell(float(stages.plasticity[stage - 1])),
        ),
    ]
    return own + (compared if stages.group.single else [])


def _cell(value: float, remark: str = "", signed: bool = False) -> Cell:
    return (number(value, signed), remark) if np.isfinite(value) else _NOTHING


def _learned(stages: _Stages, stage: int) -> Cell:
    raw = np.mean([r.scores.after[stage - 1, r.visits[stage - 1]] for r in stages.runs if r.scores is not None])
    remark = f"return {number(float(raw))}" if _normalised(stages, stage) else ""
    return _cell(stages.mean(lambda values: values.learned, stage), remark)


def _forgotten(stages: _Stages, stage: int) -> Cell:
    return _cell(stages.mean(lambda values: values.forgotten, stage), signed=True)


def _gap(stages: _Stages, stage: int) -> Cell:
    return _cell(stages.mean(lambda values: values.stability_gap, stage), signed=True)


def _relearned(stages: _Stages, stage: int) -> Cell:
    """Return the mean steps of the seeds that relearned the game, and how many did."""
    again = [values for values in stages.values if np.isfinite(values.forgotten[stage - 1])]
    if not again:
        return _NOTHING
    steps = [float(values.relearning_steps[stage - 1]) for values in again]
    known = [one for one in steps if np.isfinite(one)]
    if not known:
        return "never", f"within {short_steps(max(float(values.visit_steps[stage - 1]) for values in again))}"
    remark = f"{len(known)} of {len(steps)} seeds" if len(known) < len(steps) else ""
    return short_steps(float(np.mean(known))), remark
