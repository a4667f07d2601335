"""Read all data that the report shows of one run, and record what is missing or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from blip_rl.errors import UserError
from blip_rl.records import MAX_BITS, PlasticityRow, ReturnRow, SpeedRow
from blip_rl.reporting.bits import BitBudget, load_budget
from blip_rl.reporting.checkpoints import Information, load_information, read_metadata, stage_folders
from blip_rl.reporting.played_steps import planned_steps
from blip_rl.reporting.scores import RunScores, load_config, load_scores
from blip_rl.reporting.table import load_plasticity, load_rows
from blip_rl.reporting.task import Task, read_tasks
from blip_rl.reporting.visits import VisitedTasks, come_back, visit_label
from blip_rl.untrusted.files import check_contained, read_json, read_text

_SIGNS = ("config.toml", "scores.csv", "bits.csv", "checkpoints")
_DEFAULT_TOTAL_BITS = 20
_DAMAGED_NAMED = 3


@dataclass(frozen=True)
class RunRecord:
    """Contents of one run folder, as far as they can be read.

    Attributes:
        path: The folder.
        config: ``config.toml``; empty if it cannot be read.
        tasks: In the order of their first visits.
        visits: Index of the task that each stage learns, (stages,); a stage is one visit to a task.
        scores: None if they cannot be read.
        budget: None if no bits were frozen.
        information: Fisher information recorded with the checkpoints.
        plasticity: Rows of ``plasticity.csv``; empty if not recorded.
        speed: Rows of ``speed.csv``; empty if not recorded.
        returns: Rows of ``returns.csv``; empty if not recorded.
        command: Command line that started the run; empty if unknown.
        environment: Versions, machine, commit; empty if unknown.
        changed: Time of the last change to the folder.
        problems: Messages about missing or damaged files.
        finished_steps: Training steps of a run whose last stage is saved, scored or not; None for other runs.
    """

    path: Path
    config: dict[str, Any]
    tasks: tuple[Task, ...]
    visits: tuple[int, ...]
    scores: RunScores | None
    budget: BitBudget | None
    information: Information
    plasticity: tuple[PlasticityRow, ...]
    speed: tuple[SpeedRow, ...]
    returns: tuple[ReturnRow, ...]
    command: str
    environment: dict[str, Any]
    changed: datetime
    problems: tuple[str, ...]
    finished_steps: int | None = None

    @property
    def agent(self) -> str:
        """Name of the agent recipe."""
        return str(self.config.get("agent_name", "unknown agent"))

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def settings(self) -> dict[str, Any]:
        """The agent's settings, nested as in the recipe."""
        return subtable(self.config, "agent")

    @property
    def total_bits(self) -> int:
        """N of the method: the upper end of every scale of frozen bits."""
        total = subtable(self.settings, "method").get("total_bits", _DEFAULT_TOTAL_BITS)
        return total if isinstance(total, int) and 1 <= total <= MAX_BITS else _DEFAULT_TOTAL_BITS

    @cached_property
    def learned(self) -> int:
        """Number of learned stages: the last one with a score after its consolidation."""
        if self.scores is None:
            return 0
        rows = np.flatnonzero(np.isfinite(self.scores.after).any(axis=1))
        return int(rows[-1]) + 1 if rows.size else 0

    @cached_property
    def boundaries(self) -> dict[int, int]:
        """Stage → training steps of the whole run at its end, for finished stages."""
        ends: dict[int, int] = {}
        for curve in self.scores.curves if self.scores else ():
            for stage in range(1, self.learned + 1):
                steps = curve.env_steps[curve.stages == stage]
                if steps.size:
                    ends[stage] = max(int(steps[-1]), ends.get(stage, 0))
        return ends

    @property
    def env_steps(self) -> int:
        """Highest number of training steps in any table or checkpoint of the run."""
        ends = [int(curve.env_steps[-1]) for curve in (self.scores.curves if self.scores else ()) if curve.stages.size]
        logged = [row.env_steps for table in (self.speed, self.plasticity, self.returns) for row in table]
        return max([self.finished_steps or 0, *ends, *logged])

    @property
    def planned_steps(self) -> int:
        """Steps that all stages take."""
        return planned_steps(self.config, [self.tasks[task].steps for task in self.visits])

    @property
    def complete(self) -> bool:
        """Whether the last stage was learned: scored, or saved without scores as by ``blip-rl import``."""
        return bool(self.tasks) and (self.learned == self.stages or self.finished_steps is not None)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.visits)

    @property
    def learned_together(self) -> bool:
        """Whether all tasks are learned at once, and so scored at the end only."""
        if trains_together(self.config):
            return True
        if self.scores is None or self.stages < 2 or self.learned < self.stages:
            return False
        return not np.isfinite(self.scores.after[:-1]).any()

    @property
    def comes_back(self) -> bool:
        """Whether a task is visited more than once."""
        return come_back(self.visits)

    def short_title(self, stage: int) -> str:
        """Return the title of a stage's task without a first word that all titles have, and the visit if not the first.

        "Space Invaders" instead of "MinAtar Space Invaders", where space is scarce.
        """
        task, visit = self.visits[stage - 1], self.visits[:stage].count(self.visits[stage - 1])
        titles = [one.title for one in self.tasks]
        shared = len({title.partition(" ")[0] for title in titles}) == 1 < len(titles)
        rests = [title.partition(" ")[2] for title in titles]
        title = (rests if shared and all(rests) else titles)[task]
        return title + (f" {visit}" if visit > 1 else "")

    def stage_title(self, stage: int) -> str:
        """Return the title of a stage's task and, where tasks come back, which visit to it the stage is."""
        if not 0 < stage <= self.stages:
            return f"stage {stage}"
        return self.tasks[self.visits[stage - 1]].title + visit_label(self.visits, stage)


def is_run(path: Path) -> bool:
    """Return whether a folder contains any file that identifies a run."""
    return any((path / name).exists() for name in _SIGNS)


def load_run(path: Path) -> RunRecord:
    """Read a run folder; report missing and damaged files in ``RunRecord.problems``.

    Raises:
        UserError: The folder is not a run folder, or a link in it points outside.
    """
    if not is_run(path):
        raise UserError(
            f"'{path}' is not a run folder: it has none of {', '.join(_SIGNS)} (blip-rl train creates run folders)"
        )
    check_contained(path)
    problems: list[str] = []
    config = _read_config(path, problems)
    tasks = read_tasks(config, problems)
    visits = _visits(config, len(tasks))
    scores = _read_scores(path, problems) if config else None
    return RunRecord(
        path=path,
        config=config,
        tasks=tasks,
        visits=visits,
        scores=scores,
        budget=load_budget(path, problems),
        information=load_information(path),
        plasticity=load_plasticity(path, problems),
        speed=load_rows(path / "speed.csv", SpeedRow, problems, optional=True),
        returns=load_rows(path / "returns.csv", ReturnRow, problems, optional=True),
        command=_read_text(path / "command.txt", problems).strip(),
        environment=_read_environment(path / "environment.json", problems),
        changed=_last_change(path),
        problems=tuple(problems),
        finished_steps=_finished_steps(path, len(visits)),
    )


def _read_config(run: Path, problems: list[str]) -> dict[str, Any]:
    without = "without it the games and their scores are unknown"
    if not (run / "config.toml").is_file():
        problems.append(f"config.toml is missing: {without}")
        return {}
    try:
        config = load_config(run)
    except UserError as error:
        problems.append(_without_folder(f"{error}; {without}", run))
        return {}
    if not config:
        problems.append(f"config.toml is empty: {without}")
    return config


def _read_scores(run: Path, problems: list[str]) -> RunScores | None:
    damaged: list[str] = []
    try:
        scores = load_scores(run, damaged)
    except UserError as error:
        problems.append(_without_folder(str(error), run))
        return None
    problems.extend(_without_folder(damage, run) for damage in damaged[:_DAMAGED_NAMED])
    if len(damaged) > _DAMAGED_NAMED:
        problems.append(f"scores.csv: {len(damaged) - _DAMAGED_NAMED} more damaged lines skipped")
    return scores


def _without_folder(message: str, run: Path) -> str:
    return message.replace(f"{run}/", "")


def _visits(config: dict[str, Any], tasks: int) -> tuple[int, ...]:
    """Return the task of each stage; each task once if that cannot be read, which reading the scores reports."""
    try:
        return VisitedTasks.model_validate(config).visits if tasks else ()
    except ValidationError:
        return tuple(range(tasks))


def _read_text(path: Path, problems: list[str]) -> str:
    try:
        return read_text(path, errors="replace")
    except UserError:
        problems.append(f"{path.name} is missing or cannot be read")
        return ""


def _read_environment(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except UserError as error:
        problems.append(str(error).replace(f"'{path}'", path.name))
        return {}
    return facts if isinstance(facts, dict) else {}


def _finished_steps(run: Path, stages: int) -> int | None:
    """Return the training steps in the last stage's checkpoint; None without it or with a snapshot to resume."""
    last = stage_folders(run).get(stages)
    if last is None or any((run / "checkpoints").glob("step-*")):
        return None
    try:
        return read_metadata(last).env_steps
    except UserError:
        return None


def _last_change(run: Path) -> datetime:
    times = [path.stat().st_mtime for name in _SIGNS if (path := run / name).exists()]
    try:
        return datetime.fromtimestamp(max(times), UTC)
    except (ValueError, OverflowError, OSError):  # a file's modification time may be out of range
        return datetime.fromtimestamp(0, UTC)


def trains_together(config: dict[str, Any]) -> bool:
    """Return whether an untrusted recipe learns all its tasks at once."""
    return subtable(subtable(config, "agent"), "method").get("name") == "multitask"


def subtable(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of an untrusted recipe; empty if it has none."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}
